"""`tracker-daemon select`: a policy from its beginning on, its kill switch, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from tests.acceptance.command import tracker
from tests.factory import decision, deliver, outcome
from tests.integration.test_choices import bench
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.acceptance.command import Finished

WHOM = ("momentum", "signal")
MANY = tuple(word for number in range(1000) for word in ("--candidate", f"gpt-{number}"))
CANDIDATES = ("--candidate", "gpt-x", "--candidate", "gpt-y", "--default", "gpt-x")


@pytest.fixture
def asked(dsn: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a command, on a terminal's 80 columns."""
    return {"TRACKER_POSTGRES_DSN": dsn, "COLUMNS": "80", "HOME": str(tmp_path)}


async def fill(dsn: str) -> None:
    """Decisions that a policy chose, of which gpt-y wins three of four, and others."""
    store = Store(dsn)
    for number in range(80):
        model, word = ("gpt-y", "SUCCESS") if number % 2 else ("gpt-x", "FAILURE")
        payload = decision(
            id=f"00000000-0000-4000-8000-{number:012}",
            model=model,
            decision_type="signal",
            cost_usd="0.5",
            propensity="0.25" if number % 4 else "0.5",
        )
        word = "FAILURE" if number % 8 == 1 else word
        await store.write(deliver(payload, outcome(payload["id"], word, pnl="3.5")))
    for propensity in (None, "1", "1"):
        await store.write(deliver(decision(decision_type="signal", model="gpt-x", propensity=propensity)))
    await store.close()


async def test_a_selection_from_beginning_to_end(asked: dict[str, str], dsn: str) -> None:
    async def select(*arguments: str) -> Finished:
        ended = await tracker("select", *arguments, settings=asked)
        assert (ended.code, ended.err) == (0, "")
        return ended

    assert "No policy says which model decides" in (await select("show")).out
    said = (await select("set", *WHOM, *CANDIDATES, "--floor", "0.4", "--reason", "to try it")).out
    assert said.startswith("momentum/signal is decided by thompson among gpt-x, gpt-y.\nDaemons know in 2 s")
    await fill(dsn)
    shown = (await select("show", *WHOM)).out
    assert "momentum/signal: thompson by success, default gpt-x" in shown
    [told] = orjson.loads((await select("show", "--json")).out)
    one, other = told["candidates"]
    assert (one["model"], one["decisions"], one["pending"], one["propensity"]) == (
        "gpt-x",
        40,
        3,
        "0.0100000000",
    )
    assert (other["model"], other["propensity"]) == ("gpt-y", "0.9900000000")
    assert told["standing"]["policy"]["floor"] == 0.4
    chosen = orjson.loads((await select("choose", *WHOM, "session-7")).out)
    assert (chosen["model"], chosen["why"]) == ("gpt-y", "policy")
    chosen = orjson.loads((await select("choose", *WHOM, "session-7", "--candidate", "gpt-x")).out)
    assert (chosen["model"], chosen["propensity"]) == ("gpt-x", "1.0000000000")

    assert "is decided by gpt-x alone" in (await select("pin", *WHOM, "gpt-x", "--reason", "calm")).out
    assert "; pinned is gpt-x" in (await select("show")).out
    assert (await select("off")).out.startswith("all agents are decided by the default")
    assert "; all are switched off" in (await select("show")).out
    assert "all agents that were not" in (await select("on")).out
    assert "is decided by the default" in (await select("off", *WHOM)).out
    assert orjson.loads((await select("choose", *WHOM, "7")).out)["why"] == "switched_off"
    assert "is decided by policy or pin" in (await select("on", *WHOM)).out
    assert "is decided by its policy" in (await select("unpin", *WHOM)).out
    listed = (await select("events")).out
    assert "switched off" in listed
    told = orjson.loads((await select("events", "--json")).out)
    kinds = [event["kind"] for event in told]
    assert told[-2]["reason"] == "gpt-x decides, whatever the policy says: calm"
    switches = ["switched_on", "switched_off"]
    assert kinds == ["unpinned", *switches, *switches, "pinned", "defined"]
    assert len(orjson.loads((await select("events", "--limit", "2", "--json")).out)) == 2


async def test_all_benched_and_no_outcome_are_said(asked: dict[str, str], sql: asyncpg.Connection) -> None:
    await tracker("select", "set", *WHOM, *CANDIDATES, settings=asked)
    shown = (await tracker("select", "show", settings=asked)).out
    assert [line.split()[:4] for line in shown.splitlines()[-4::2]] == [
        ["gpt-x", "50.0%", "50.0%", "50.0%"],
        ["gpt-y", "50.0%", "50.0%", "50.0%"],
    ]
    results = await tracker("select", "results", *WHOM, settings=asked)
    assert (results.code, results.err) == (0, "")
    await bench(sql, "gpt-x", "gpt-y")
    chosen = orjson.loads((await tracker("select", "choose", *WHOM, "7", settings=asked)).out)
    assert (chosen["model"], chosen["why"], chosen["benched"]) == ("gpt-x", "all_benched", ["gpt-x", "gpt-y"])
    [told] = orjson.loads((await tracker("select", "show", "--json", settings=asked)).out)
    assert [each["benched_since"] is not None for each in told["candidates"]] == [True, True]


async def test_the_models_are_compared_by_inverse_propensity(asked: dict[str, str], dsn: str) -> None:
    await tracker("select", "set", *WHOM, *CANDIDATES, settings=asked)
    await fill(dsn)
    shown = await tracker("select", "results", *WHOM, settings=asked)
    assert (shown.code, shown.err) == (0, "")
    assert "Left out: 2 decisions that one model alone might make, 1 that the policy" in shown.out
    found = orjson.loads((await tracker("select", "results", *WHOM, "--json", settings=asked)).out)
    one, other = found["models"]
    # gpt-y: 40 decisions at a quarter each; gpt-x: 20 at a half, 20 at a quarter, none successful.
    assert other["success"]["mean"] == other["weighted"]["success"]["mean"] == pytest.approx(30 / 40)
    assert other["weighted"]["success"]["effective"] == pytest.approx(40)
    assert one["weighted"]["success"]["effective"] == pytest.approx(
        (20 * 2 + 20 * 4) ** 2 / (20 * 4 + 20 * 16)
    )
    assert (one["decisions"], one["pending"], one["weighted"]["pnl"]["mean"]) == (40, 0, 3.0)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("show", *WHOM), 1, "no policy says which model decides for momentum/signal; set one with"),
        (("show", "momentum"), 2, "name both AGENT and TYPE, or neither"),
        (("choose", *WHOM, "7"), 1, "no policy says which model decides"),
        (("choose", *WHOM, ""), 1, "length >= 1"),
        (("choose", *WHOM, "7" * 100_000), 1, "length <= 1000 - at `$.key`"),
        (("choose", *WHOM, "\udcff"), 1, "there is no JSON for it"),
        (("set", "\udcff", "signal", *CANDIDATES), 1, "this is no policy: there is no JSON for it"),
        (("set", *WHOM, *CANDIDATES, *MANY), 1, "momentum/signal needs 1 to 20 candidates, not 1002"),
        (("set", *WHOM, *CANDIDATES, "--floor", "nan"), 1, "must be between 0 and 1, not nan"),
        (("results", *WHOM), 1, "no policy says which model decides"),
        (("pin", *WHOM, "gpt-x"), 1, "no policy says which model decides"),
        (("unpin", *WHOM), 1, "no policy says which model decides"),
        (("off", *WHOM), 1, "no policy says which model decides"),
        (("off", "momentum"), 1, "name both agent and decision type, or neither"),
        (("set", *WHOM, "--default", "gpt-x"), 2, "Missing option '--candidate'"),
        (
            ("set", *WHOM, *CANDIDATES, "--default", "gpt-0"),
            1,
            "gpt-0, is no candidate; there are gpt-x, gpt-y",
        ),
        (("set", *WHOM, *CANDIDATES, "--candidate", "gpt-x"), 1, "gpt-x is twice among the candidates"),
        (("set", *WHOM, *CANDIDATES, "--policy", "luck"), 1, "Invalid enum value 'luck'"),
        (("set", *WHOM, *CANDIDATES, "--metric", "luck"), 1, "Invalid enum value 'luck'"),
        (("set", *WHOM, *CANDIDATES, "--floor", "2"), 1, "floor of momentum/signal must be between 0 and 1"),
        (("set", *WHOM, *CANDIDATES, "--least-share", "0.6"), 1, "must be between 0.001 and 0.5, not 0.6"),
    ],
)
async def test_what_cannot_be_is_said(
    asked: dict[str, str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = await tracker("select", *arguments, settings=asked)
    assert ended.code == code
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


async def test_one_that_cannot_be_read_is_told_beside_the_others(
    asked: dict[str, str], sql: asyncpg.Connection
) -> None:
    for agent in ("momentum", "odd"):
        await tracker("select", "set", agent, "signal", *CANDIDATES, settings=asked)
    await sql.execute("UPDATE llm_selection_events SET figures = '{}' WHERE agent_name = 'odd'")
    for json in ((), ("--json",)):
        shown = await tracker("select", "show", *json, settings=asked)
        assert shown.code == 1
        assert "gpt-y" in shown.out
        assert shown.err.startswith("tracker-daemon: the policy of odd/signal cannot be read: Object missing")
    shown = await tracker("select", "show", "odd", "signal", settings=asked)
    assert (shown.code, shown.out) == (1, "")
    assert "the policy of odd/signal cannot be read" in shown.err
    assert (await tracker("select", "show", *WHOM, settings=asked)).code == 0
    assert (await tracker("select", "set", "odd", "signal", *CANDIDATES, settings=asked)).code == 0
    assert (await tracker("select", "show", settings=asked)).code == 0


async def test_of_a_policy_that_there_is_what_cannot_be_is_said(asked: dict[str, str]) -> None:
    await tracker("select", "set", *WHOM, *CANDIDATES, settings=asked)
    for arguments, said in (
        (("choose", *WHOM, "7", "--candidate", "gpt-0"), "gpt-0 is no candidate of momentum/signal"),
        (("pin", *WHOM, "gpt-0"), "gpt-0 is no candidate of momentum/signal"),
    ):
        ended = await tracker("select", *arguments, settings=asked)
        assert (ended.code, said in ended.err) == (1, True)
    await tracker("select", "pin", *WHOM, "gpt-y", settings=asked)
    ended = await tracker("select", "choose", *WHOM, "7", "--candidate", "gpt-x", settings=asked)
    assert "only gpt-y may decide (pinned), which is not among the candidates" in ended.err
    others = ("--candidate", "gpt-x", "--default", "gpt-x")
    ended = await tracker("select", "set", *WHOM, *others, settings=asked)
    assert "gpt-y is pinned for momentum/signal: unpin it, or keep it a candidate" in ended.err
