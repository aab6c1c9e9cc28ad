"""`tracker-daemon experiment`: from its beginning to its end, and what it refuses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson
import pytest

from tests.acceptance.command import tracker
from tests.factory import decision, deliver, outcome
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

ARMS = ("--arm", "name=old,share=0.5,model=gpt-x", "--arm", "name=new,share=0.5,model=gpt-y,prompt_version=7")
CREATE = ("experiment", "create", "prompts", *ARMS, "--minimum-effect", "0.1")


@pytest.fixture
def asked(dsn: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a command, on a terminal's 80 columns."""
    return {"TRACKER_POSTGRES_DSN": dsn, "COLUMNS": "80", "HOME": str(tmp_path)}


async def test_an_experiment_from_beginning_to_end(asked: dict[str, str], dsn: str) -> None:
    created = await tracker(*CREATE, "--parameters", 'new={"temperature": 0.2}', settings=asked)
    assert (created.code, created.err) == (0, "")
    assert created.out.startswith("prompts runs since 20")
    store, won = Store(dsn), 0
    for number in range(80):
        if number < 8:  # the command says the same as the library, which is asked for the others
            said = await tracker("experiment", "assign", "prompts", f"unit-{number}", settings=asked)
            told = orjson.loads(said.out)
            assert told["experiment"] == "prompts"
            assert told["propensity"] == "0.5"
            expected = {"old": ("gpt-x", None, {}), "new": ("gpt-y", "7", {"temperature": 0.2})}
            assert (told["model"], told["prompt_version"], told["parameters"]) == expected[told["variant"]]
        variant = "new" if number % 2 else "old"
        propensity = 0.25 if number % 8 == 1 else 0.5
        payload = decision(id=str(_id(number)), experiment="prompts", variant=variant, propensity=propensity)
        won += number % 4 == 1
        word = "SUCCESS" if number % 4 == 1 else "FAILURE"
        await store.write(deliver(payload, outcome(payload["id"], word, pnl="3.5")))
    await store.close()
    shown = await tracker("experiment", "results", "prompts", settings=asked)
    assert (shown.code, shown.err) == (0, "")
    assert "new less old: success rate +50.0%" in shown.out
    assert "\nnew by inverse propensity: success rate 60.0%, 4" in shown.out
    assert "old by inverse propensity" not in shown.out
    assert shown.out.splitlines()[-1].startswith("Leader: new is better than old by 50.0 points")
    assert max(len(line) for line in shown.out.splitlines()[:-3]) <= 80
    told = orjson.loads((await tracker("experiment", "results", "prompts", "--json", settings=asked)).out)
    assert [arm["success"]["mean"] for arm in told["arms"]] == [0, won / 40]
    stopped = await tracker("experiment", "stop", "prompts", settings=asked)
    assert stopped.out.startswith("prompts is stopped since 20")
    late = await tracker("experiment", "assign", "prompts", "unit-1", settings=asked)
    assert (late.code, "prompts is stopped since 20" in late.err) == (1, True)
    listed = await tracker("experiment", "list", settings=asked)
    assert "old 50%, new 50%" in listed.out
    [only] = orjson.loads((await tracker("experiment", "list", "--json", settings=asked)).out)
    assert only["stopped_at"] is not None


def _id(number: int) -> str:
    return f"00000000-0000-4000-8000-{number:012}"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("results", "nobody"), 1, "there is no experiment nobody; see tracker-daemon experiment list"),
        (("stop", "nobody"), 1, "there is no experiment nobody"),
        (("assign", "nobody", "unit"), 1, "there is no experiment nobody"),
        (("assign", "nobody", "u" * 100_000), 1, "length <= 1000 - at `$.unit`"),
        (("assign", "nobody", "\udcff"), 1, "there is no JSON for it"),
        (("assign", "\x1b[31m", "unit"), 1, r"there is no experiment \u001b[31m;"),
        (
            ("create", "\udcff", *ARMS, "--minimum-effect", "0.1"),
            1,
            "this is no experiment",
        ),
        (("create", "x" * 101, *ARMS, "--minimum-effect", "0.1"), 1, "length <= 100 - at `$.name`"),
        (("create", "x", *ARMS, "--minimum-effect", "nan"), 1, "1e-08 or more, and less than 1, not nan"),
        (
            ("create", "x", *ARMS, "--minimum-effect", "inf", "--metric", "pnl"),
            1,
            "1e-08 or more, and less than 1e+12, not inf",
        ),
        (("create", "x", *ARMS[:2], "--minimum-effect", "1"), 1, "compares 2 to 20 arms; x has 1"),
        (
            ("create", "x", *ARMS[:2], "--arm", "name=b,share=0.6", "--minimum-effect", "1"),
            1,
            "the shares of x add up to 1.1, and must add up to 1",
        ),
        (("create", "x", *ARMS, "--minimum-effect", "2"), 1, "1e-08 or more, and less than 1, not 2"),
        (
            ("create", "x", *ARMS, "--minimum-effect", "1", "--metric", "luck"),
            2,
            "expected one of success, pnl",
        ),
        (("create", "x", "--arm", "name=a", "--minimum-effect", "1"), 2, "expected name=NAME,share=0.5"),
        (("create", "x", "--arm", "name=a,share=1.5", "--minimum-effect", "1"), 1, "the share of a must be"),
        (
            ("create", "x", *ARMS, "--minimum-effect", "0.1", "--parameters", "so={}"),
            2,
            "of so, which is no arm",
        ),
    ],
)
async def test_what_cannot_be_is_said(
    asked: dict[str, str], arguments: tuple[str, ...], code: int, said: str
) -> None:
    ended = await tracker("experiment", *arguments, settings=asked)
    assert ended.code == code
    assert said in " ".join(ended.err.replace("│", " ").split())
    assert "Traceback" not in ended.err


async def test_without_outcomes_and_without_pnl_there_is_a_verdict_in_words(
    asked: dict[str, str], dsn: str
) -> None:
    await tracker(*CREATE, "--metric", "pnl", settings=asked)
    shown = await tracker("experiment", "results", "prompts", settings=asked)
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.splitlines()[-1].startswith("Not enough evidence: to compare an arm with old, 30 units")
    store = Store(dsn)
    for number in range(80):
        variant = "new" if number % 2 else "old"
        payload = decision(id=_id(number), experiment="prompts", variant=variant)
        pnl = "2.5" if variant == "old" else None
        await store.write(deliver(payload, outcome(payload["id"], "SUCCESS", pnl=pnl)))
    await store.close()
    shown = await tracker("experiment", "results", "prompts", settings=asked)
    assert (shown.code, shown.err) == (0, "")
    assert "must tell of pnl" in shown.out.splitlines()[-1]


async def test_one_that_cannot_be_read_is_told_beside_the_others(
    asked: dict[str, str], sql: asyncpg.Connection
) -> None:
    await tracker(*CREATE, settings=asked)
    await sql.execute("INSERT INTO llm_experiments (name, definition) VALUES ('odd', '{}')")
    for json in ((), ("--json",)):
        listed = await tracker("experiment", "list", *json, settings=asked)
        assert listed.code == 1
        assert "prompts" in listed.out
        assert listed.err.startswith("tracker-daemon: the experiment odd cannot be read: Object missing")


async def test_an_experiment_does_not_change_in_mid_flight(asked: dict[str, str]) -> None:
    await tracker(*CREATE, settings=asked)
    renamed = [word.replace("name=new", "name=newer") for word in CREATE]
    ended = await tracker(*renamed, settings=asked)
    assert ended.code == 1
    assert "prompts has begun with other arms" in ended.err
    assert (await tracker(*CREATE, settings=asked)).code == 0
