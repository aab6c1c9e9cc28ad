"""`run --embedded` and `demo`: servers that come along, and go again."""

from __future__ import annotations

import ast
import asyncio
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import nats
import orjson
import pytest

from tests.acceptance.command import PATIENCE_SECONDS, SCRIPT, tracker, until
from tests.factory import decision
from tracker_daemon.client import DecisionTracker
from tracker_daemon.signals import STOPS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.acceptance.command import Daemon
    from tests.acceptance.conftest import Run

README = Path(__file__).parents[2] / "README.md"


def processes_in(folder: Path) -> list[int]:
    """Process ids of all that work in this folder: servers do, and so do their children."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # ended meanwhile
            if (process / "cwd").readlink().is_relative_to(folder):
                found.append(int(process.name))
    return found


@pytest.fixture
def folder(data_dir: Path) -> Iterator[Path]:
    """Yield a data folder; servers that a failed test leaves there are killed."""
    yield data_dir
    for pid in processes_in(data_dir):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


async def addresses(daemon: Daemon) -> dict[str, Any]:
    """Where the servers of a daemon listen, as it says in its log."""
    return await daemon.said("embedded servers")


async def publish(daemon: Daemon, **fields: Any) -> None:
    """Publish a decision to the embedded server's stream."""
    client = await nats.connect((await addresses(daemon))["nats.servers"], allow_reconnect=False)
    await client.jetstream().publish("llm.decisions", orjson.dumps(decision(**fields)))
    await client.close()


async def symbols(daemon: Daemon) -> list[str]:
    """The symbols of all decisions in the embedded database."""
    sql = await asyncpg.connect((await addresses(daemon))["postgres.dsn"])
    rows = await sql.fetch("SELECT symbol FROM llm_decisions ORDER BY created_at")
    await sql.close()
    return [row["symbol"] for row in rows]


async def test_embedded_servers_come_and_go_with_the_daemon_and_keep_their_data(
    run: Run, basics: dict[str, str], folder: Path
) -> None:
    # What the environment names for other daemons is not migrated, nor asked for anything.
    others = {"TRACKER_POSTGRES_MIGRATE_DSN": "postgresql://127.0.0.1:1/tracker"}
    settings = {**basics, **others, "TRACKER_NATS_STREAM_MAX_BYTES": "256MiB"}
    first = await (await run(settings, "--embedded", "--data-dir", folder)).ready()
    await publish(first, symbol="FIRST")

    async def stored() -> bool:
        return await symbols(first) == ["FIRST"]

    await until("the decision is stored", stored)
    assert processes_in(folder)
    before = await addresses(first)
    assert await first.stop() == 0
    assert processes_in(folder) == []

    second = await (await run(settings, "--embedded", "--data-dir", folder)).ready()
    await publish(second, symbol="SECOND")

    async def both_stored() -> bool:
        return await symbols(second) == ["FIRST", "SECOND"]

    await until("both decisions are there", both_stored)
    after = await addresses(second)
    assert [after[name] for name in ("nats.servers", "postgres.dsn", "folder")] == [
        before[name] for name in ("nats.servers", "postgres.dsn", "folder")
    ]
    assert await second.stop(signal.SIGINT) == 0
    assert processes_in(folder) == []


async def continued(source: str, servers: str) -> None:
    """Run what the README's agent does next with its tracker."""
    async with DecisionTracker.over_nats(servers) as tracker:

        async def ask_model(_: str, model: str = "gpt-x") -> str:
            return "Wait." if model == "gpt-x" else "?"

        names = {"tracker": tracker, "prompt": "Now?", "session": "2026-11-23", "ask_model": ask_model}
        await eval(compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT), names)  # noqa: S307


async def test_the_agent_of_the_readme_is_recorded_as_it_says(
    run: Run, basics: dict[str, str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    readme = README.read_text("utf-8")
    python = r"```python\n(.+?)```"
    [(agent, query, answer, more, chosen)] = re.findall(
        rf"(?s){python}.+```sql\n(.+?)```\s+```\n.+?-\n(.+?)\n```.+?{python}.+?{python}", readme
    )
    daemon = await (await run(basics, "--embedded", "--data-dir", folder)).ready()
    servers = await addresses(daemon)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", agent, env={"TRACKER_NATS_SERVERS": servers["nats.servers"]}
    )
    assert await process.wait() == 0
    sql = await asyncpg.connect(servers["postgres.dsn"])

    async def as_shown() -> bool:
        rows = [[str(value) for value in row] for row in await sql.fetch(query)]
        return rows == [re.split(r"\s*\|\s*", answer.strip())]

    await until("the row is the one that is shown", as_shown)
    await continued(more, servers["nats.servers"])
    await continued(chosen, servers["nats.servers"])
    rates, best = capsys.readouterr().out.splitlines()
    assert rates.split()[1] == "250.50000000"
    assert best == "[('BUY', Decimal('250.50000000'))]"
    timed = "SELECT latency_ms FROM llm_decisions WHERE response = 'Wait.'"
    both = timed.replace("latency_ms", "count(*) = 2 AND min(latency_ms) >= 0")
    await until("the model's answers are recorded", lambda: sql.fetchval(both))
    vetoed = "SELECT EXISTS (SELECT FROM llm_decisions WHERE agent_name = 'risk' AND action = 'VETO')"
    await until("the veto is recorded", lambda: sql.fetchval(vetoed))
    await sql.close()
    assert await daemon.stop() == 0


async def test_a_second_run_in_the_same_folder_is_refused(
    run: Run, basics: dict[str, str], folder: Path
) -> None:
    first = await (await run(basics, "--embedded", "--data-dir", folder)).ready()
    second = await tracker("run", "--embedded", "--data-dir", folder, settings=basics)
    assert second.code == 1
    [sentence] = second.err.splitlines()
    assert sentence.startswith(f"tracker-daemon: data folder {folder} is in use by process")
    assert await first.stop() == 0


async def test_a_second_sigterm_does_not_leave_servers_behind(
    run: Run, basics: dict[str, str], folder: Path
) -> None:
    """The daemon has drained and its servers are being stopped when somebody loses patience."""
    daemon = await (await run(basics, "--embedded", "--data-dir", folder)).ready()
    daemon.send(signal.SIGTERM)
    await daemon.said("stopped")
    assert await daemon.stop() == 0
    assert processes_in(folder) == []


@pytest.mark.parametrize("number", STOPS)
async def test_a_signal_while_servers_start_ends_them(
    number: signal.Signals, run: Run, basics: dict[str, str], folder: Path
) -> None:
    daemon = await run(basics, "--embedded", "--data-dir", folder)

    async def one_started() -> bool:
        return bool(processes_in(folder))

    await until("a server has been started", one_started)
    assert await daemon.stop(number) == 0
    assert processes_in(folder) == []
    assert "Traceback" not in daemon.output()


async def test_the_demo_replays_prints_its_tables_and_leaves_no_process(folder: Path) -> None:
    ended = await tracker("demo", "--limit", "200", "--rate", "5000", "--data-dir", folder, settings={})
    assert (ended.code, ended.err) == (0, "")
    records, _, letters = ended.out.partition("Malformed on purpose: dead letters")
    for agent in ("trend", "reversion"):
        assert agent in records
    for reason in ("invalid_json", "missing_field", "invalid_field"):
        assert reason in letters
    assert processes_in(folder) == []


@pytest.mark.parametrize("number", STOPS)
async def test_an_interrupted_demo_leaves_no_process(number: signal.Signals, folder: Path) -> None:
    demo = await asyncio.create_subprocess_exec(
        *(SCRIPT, "demo", "--data-dir", folder),
        env={"COLUMNS": "240"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        assert demo.stdout is not None
        async with asyncio.timeout(PATIENCE_SECONDS):
            while "Replaying" not in (line := (await demo.stdout.readline()).decode()):
                assert line, "the demo has ended before it began to replay"
            demo.send_signal(number)
            said = (await demo.stdout.read()).decode()
            assert await demo.wait() == 0
    finally:
        if demo.returncode is None:
            demo.kill()
            await demo.wait()
    assert said.endswith("Stopped.\n")
    assert "Traceback" not in said
    assert processes_in(folder) == []
