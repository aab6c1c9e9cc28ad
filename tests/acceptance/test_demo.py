"""`demo --nats-url`: the replay as a publisher alone, to servers that are none of its own."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from tests.acceptance.command import tracker, until
from tracker_daemon.embedded import NatsServer

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.acceptance.conftest import Run


async def test_a_daemon_stores_what_the_demo_publishes_to_its_server(
    run: Run, basics: dict[str, str], data_dir: Path, dsn: str, sql: asyncpg.Connection
) -> None:
    """Decisions, outcomes and the flaws, whose vector of three is none where three are configured."""
    with NatsServer(data_dir) as server:
        settings = {"TRACKER_NATS_SERVERS": server.url, "TRACKER_POSTGRES_DSN": dsn}
        daemon = await (await run(basics | settings)).ready()
        demo = await tracker("demo", "--nats-url", server.url, "--limit", "90", "--rate", "5000", settings={})
        assert (demo.code, demo.err) == (0, "")
        assert "Stream LLM has stored 90 decisions, 15 outcomes and 6 malformed messages." in demo.out

        async def stored() -> bool:
            counts = await sql.fetchrow(
                "SELECT (SELECT count(*) FROM llm_decisions), (SELECT count(*) FROM llm_outcomes),"
                " (SELECT count(*) FROM llm_dead_letters)"
            )
            return counts is not None and tuple(counts) == (91, 15, 5)

        await until("everything is stored", stored)
        assert await daemon.stop() == 0


async def test_a_server_that_is_not_there_is_a_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    demo = await tracker("demo", "--nats-url", f"nats://127.0.0.1:{port}", settings={})
    assert demo.code == 1
    [sentence] = demo.err.splitlines()
    assert sentence.startswith("tracker-daemon: The demo cannot reach its NATS server")


async def test_a_publisher_has_nothing_to_keep_running(data_dir: Path) -> None:
    url = "nats://127.0.0.1:4222"
    for more in (["--keep-running"], ["--data-dir", data_dir]):
        demo = await tracker("demo", "--nats-url", url, *more, settings={})
        assert demo.code == 2
        assert "--nats-url starts nothing" in demo.err


async def test_the_better_of_two_rules_comes_to_decide(data_dir: Path) -> None:
    """A small part of the market, whose verdict is open; which rule got how much is in the decisions."""
    asked = ("--experiment", "--limit", "150", "--data-dir", data_dir)
    demo = await tracker("demo", *asked, settings={"COLUMNS": "80", "HOME": str(data_dir)}, seconds=300)
    assert demo.code == 0, demo.err
    verdicts = ("Leader: ", "No difference yet ", "Harmful: ", "Broken: ", "Not enough evidence: ")
    assert any(line.startswith(verdicts) for line in demo.out.splitlines())
    rows = [line.split() for line in demo.out.splitlines() if " rules/" in line]
    told: dict[str, int] = {}
    for by, model, decisions, *_ in rows:
        assert model in {"rules/rsi-14", "rules/macd-12-26-9"}
        told[by] = told.get(by, 0) + int(decisions)
    assert sum(told.values()) == 150
    assert told["experiment"] <= 100
    assert told["selection"] <= 50
    assert "The daemon has drained and left with exit code 0." in demo.out
