"""Every question about rows that no message can have made, but someone else's table may hold."""

from __future__ import annotations

import io
import itertools
import json
import sys
from contextlib import aclosing
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings

from tests.extremes import EXAMPLES, FOREIGN_ROWS, HUGE, adopt_rows
from tests.schemas import validator
from tests.situations import few, index_all
from tracker_daemon.cli.formats import JsonLines
from tracker_daemon.queries import QUESTIONS, Filter, as_json, export_decisions, parse, reading
from tracker_daemon.situations.learning import due, learn

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

__all__ = ["few"]
pytestmark = pytest.mark.timeout(300)

Foreign = list[dict[str, str | None]]

SITUATION = {"rsi": 62.1, "trend": "up", "deep": {"a": 1}}
NEAR = {"situation": SITUATION, "max_distance": 1, "min_overlap": 0.01}
CONTEXTS = ('{"rsi": 62}', "null", "[1]", '"text"', f'{{"rsi": {HUGE}}}', '{"a":' * 500 + "1" + "}" * 500)
ASKED: dict[str, tuple[dict[str, Any], ...]] = {
    "stats": ({}, {"group_by": ["hour"]}, {"group_by": ["day", "agent_name"], "maturity_seconds": 60}),
    "calibration": ({}, {"group_by": ["day"], "maturity_seconds": 60}),
    "recent": ({"limit": 2},),
    "successful": ({"limit": 2},),
    "failed": ({"limit": 2},),
    "search": ({"text": "up", "limit": 2},),
    "similar": (NEAR, NEAR | {"resolved": True}),
    "context": ({"situation": SITUATION, "quoting": "all"},),
    "prompts": ({"embedding": [1, 2, 3]}, {"embedding": [1, 2, 3], "text": "up", "hybrid": True}),
}
TIMES = ({}, {"as_of": "2026-01-01T12:00:00Z"}, {"since": "2025-01-01T00:00:00Z"})


async def ask(sql: asyncpg.Connection, name: str, question: dict[str, Any]) -> Any:
    """The answer as JSON has it, which must follow its schema, with times that anybody can read."""
    parsed = parse(json.dumps(question).encode(), QUESTIONS[name])
    async with reading(sql):
        answer = json.loads(as_json(await parsed.answer(sql)))
    validator("answer", name).validate(answer)
    for key, value in leaves(answer):
        if key.endswith("_at") and isinstance(value, str):
            assert datetime.fromisoformat(value).tzinfo
    return answer


def leaves(answer: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """All that is no object and no array, with its key."""
    match answer:
        case dict():
            for name, value in answer.items():
                yield from leaves(value, name)
        case list():
            for value in answer:
                yield from leaves(value, key)
        case _:
            yield key, answer


async def ask_all(sql: asyncpg.Connection, name: str, question: dict[str, Any]) -> list[str]:
    """The ids on all pages, of which there are few."""
    ids: list[str] = []
    for _ in range(6):
        page = await ask(sql, name, question)
        ids += [row.get("decision", row)["id"] for row in page.get("rows", ())]
        if page.get("cursor") is None:
            return ids
        question = question | {"cursor": page["cursor"]}
    raise AssertionError("the pages have no end")


@settings(EXAMPLES, max_examples=30)
@given(rows=FOREIGN_ROWS)
async def test_each_is_answered(rows: Foreign, sql: asyncpg.Connection) -> None:
    await adopt_rows(sql, rows)
    for (name, questions), times in itertools.product(ASKED.items(), TIMES):
        for question in questions:
            ids = await ask_all(sql, name, question | times)
            if (name, times) == ("recent", {}):
                assert sorted(ids) == sorted(row["id"] for row in rows if row["created_at"])
    for row in rows:
        assert (await ask(sql, "decision", {"id": row["id"]}))["decision"]["id"] == row["id"]


@settings(EXAMPLES, max_examples=20)
@given(rows=FOREIGN_ROWS)
async def test_each_is_exported(rows: Foreign, sql: asyncpg.Connection) -> None:
    await adopt_rows(sql, rows)
    to = io.BytesIO()
    async with aclosing(export_decisions(sql, Filter(), ledger=True)) as decisions:
        async for part in decisions:
            JsonLines(to, ledger=True).write(part)
    lines = [json.loads(line) for line in to.getvalue().splitlines()]
    assert sorted(line["id"] for line in lines) == sorted(row["id"] for row in rows)
    for key, value in leaves(lines):
        if key.endswith("_at") and value is not None:
            assert datetime.fromisoformat(value).tzinfo


async def test_what_no_message_may_say_is_left_out_of_a_list(sql: asyncpg.Connection) -> None:
    """And said to be; a decision without a context, which JSON has as null, lacks nothing."""
    contexts = [*CONTEXTS]
    for context in contexts:
        await adopt(sql, "2026-01-01Z", context)
    answer = await ask(sql, "recent", {})
    told = {(json.dumps(row["context"]), row["cut"]) for row in answer["rows"]}
    assert told == {('{"rsi": 62}', False), ("null", False), ("null", True)}
    assert sum(row["cut"] for row in answer["rows"]) == 4


async def test_what_is_near_is_told_with_the_last_time_and_the_greatest_number_there_is(
    dsn: str, sql: asyncpg.Connection, few: None
) -> None:
    """With an index as without one, which has no place for a number that nothing here can read."""
    assert few is None
    for minute in range(20):
        await adopt(sql, f"2026-01-01 00:{minute}Z", f'{{"rsi": {60 + minute}, "trend": "up"}}')
    until = await due(sql)
    assert until
    await learn(sql, until)
    asked = {"situation": {"rsi": 62, "trend": "up"}, "max_distance": 1, "limit": 100}
    ends = {"9999-12-31T23:59:59.999999Z": "infinity", "0001-01-01T00:00:00Z": "-infinity"}
    for end in ends.values():
        await adopt(sql, end, '{"rsi": 62, "trend": "up"}')
    await adopt(sql, "2026-01-02Z", f'{{"rsi": {HUGE}, "trend": "up"}}')
    await adopt(sql, "2026-01-02Z", f'{{"rsi": -{HUGE}, "trend": "up"}}')
    by_scan = await ask(sql, "similar", asked)
    await index_all(dsn)
    by_index = await ask(sql, "similar", asked)
    assert (by_scan["by_index"], by_index["by_index"]) == (False, True)
    for answer in (by_scan, by_index):
        assert {each["created_at"] for each in answer["precedents"]} > ends.keys()
    values = {value for key, value in leaves(by_scan["precedents"]) if key == "value"}
    numbers = [float(value) for value in values - {"up"}]
    assert (min(numbers), max(numbers)) == (-sys.float_info.max, sys.float_info.max)


async def adopt(sql: asyncpg.Connection, time: str, context: str) -> None:
    """One more decision, which no message has brought."""
    await sql.execute(
        "INSERT INTO llm_decisions "
        "(created_at, context, agent_name, model, symbol, decision_type, prompt, response) "
        "VALUES ($1::text::timestamptz, $2, 'a', 'm', 'BTC', 'signal', '?', '!')",
        time,
        context,
    )
