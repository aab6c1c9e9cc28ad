"""Questions as JSON: what is understood, and what is refused in words that help."""

from __future__ import annotations

import contextlib
import math
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import QUESTIONS, Filter, as_json, parse
from tracker_daemon.queries.questions import (
    Calibration,
    Context,
    One,
    Prompts,
    Recent,
    Search,
    Similar,
    Stats,
)


def test_a_question_is_its_filter_and_more() -> None:
    asked = parse(
        b'{"agent_name": "risk", "since": "2026-11-23T10:00:00Z", "min_pnl": "250.50",'
        b' "group_by": ["model"]}',
        Stats,
    )
    since = datetime(2026, 11, 23, 10, tzinfo=UTC)
    assert asked == Stats(agent_name="risk", since=since, min_pnl=Decimal("250.50"), group_by=("model",))
    assert parse(as_json(asked), Stats) == asked
    assert parse(b"", Recent) == Recent()


@pytest.mark.parametrize(
    ("kind", "data", "says"),
    [
        (Recent, b'{"limit": 10000000}', r"<= 1000.*\$\.limit"),
        (Recent, b'{"limit": "5"}', r"Expected `int`, got `str`.*\$\.limit"),
        (Recent, b'{"agent": "risk"}', "unknown field `agent`"),
        (Recent, b'{"since": "yesterday"}', r"\$\.since"),
        (Recent, b'{"since": "2026-11-23T10:00:00"}', "since needs an offset from UTC"),
        (Stats, b'{"group_by": ["prompt"]}', r"Invalid enum value 'prompt'"),
        (Stats, b'{"maturity_seconds": -1}', r"\$\.maturity_seconds"),
        (Stats, b'{"min_pnl": "many"}', r"\$\.min_pnl"),
        (Stats, b'{"min_pnl": "1e200000"}', "min_pnl is no number that a column could hold"),
        (Stats, b'{"max_pnl": "1e-200000"}', "max_pnl is no number that a column could hold"),
        (Stats, b'{"max_cost_usd": "NaN"}', "max_cost_usd is no number that a column could hold"),
        (Calibration, b'{"buckets": 51}', r"<= 50.*\$\.buckets"),
        (Calibration, b'{"buckets": 1}', r">= 2.*\$\.buckets"),
        (Search, b"{}", "missing required field `text`"),
        (Search, b'{"text": 7}', r"Expected `str`, got `int`.*\$\.text"),
        (Similar, b"{}", "missing required field `situation`"),
        (Similar, b'{"situation": [62.1]}', r"Expected `object`, got `array`.*\$\.situation"),
        (Similar, b'{"situation": {"rsi": 1e400}}', "Number out of range"),
        (Similar, b'{"situation": {}, "limit": 101}', r"<= 100.*\$\.limit"),
        (Similar, b'{"situation": {}, "weights": {"rsi": "2"}}', r"Expected `float`, got `str`.*\$\.weights"),
        (Context, b'{"agent_name": "risk"}', "missing required field `situation`"),
        (Context, b'{"situation": {}, "token_budget": 100001}', r"<= 100000.*\$\.token_budget"),
        (Context, b'{"situation": {}, "quoting": "some"}', r"Invalid enum value 'some'"),
        (Prompts, b'{"text": 7}', r"Expected `str \| null`, got `int`.*\$\.text"),
        (Prompts, b'{"embedding": [1e400]}', "Number out of range"),
        (Prompts, b'{"embedding": [1, "2"]}', r"Expected `float`, got `str`.*\$\.embedding"),
        (Prompts, b'{"limit": 101}', r"<= 100.*\$\.limit"),
        (One, b"{}", "missing required field `id`"),
        (One, b'{"id": "7"}', "Invalid UUID"),
        (Recent, b"[]", "Expected `object`"),
        (Recent, b"{", "no JSON object"),
        (Recent, b"\xff\xfe", "no JSON object"),
        (Recent, b'{"context":' * 100_000, "no JSON object"),
        (Recent, b'{"context":' + b'{"a":' * 201 + b"1" + b"}" * 202, "context is nested deeper"),
        (Recent, b'{"extra":{"a":' + b"[" * 800 + b"]" * 800 + b"}}", "extra is nested deeper"),
    ],
)
def test_what_is_wrong_is_named(kind: type[Recent], data: bytes, says: str) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        parse(data, kind)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["context", "extra"])
def test_a_condition_holds_no_number_that_is_none(name: str, number: float) -> None:
    """It would become a null, which is contained in other decisions."""
    conditions: Any = {name: {"indicators": [{"rsi": number}]}}
    with pytest.raises(InvalidQuestion, match=f"{name} holds a number that is none"):
        Filter(**conditions)


async def embed(text: str) -> tuple[str, tuple[float, ...]]:
    """As a provider does, of one number."""
    return "m", (float(len(text)),)


@pytest.mark.parametrize("model", [None, "m"])
async def test_a_text_gets_its_embedding_and_the_model_of_it(model: str | None) -> None:
    asked = Prompts(text="four", embedding_model=model, symbol="BTC")
    expected = Prompts(text="four", embedding=(4.0,), embedding_model="m", symbol="BTC")
    assert await asked.embedded(embed) == expected


async def test_an_embedding_that_is_given_stays_whatever_text_comes_with_it() -> None:
    for asked in (Prompts(embedding=(1.0,)), Prompts(embedding=(1.0,), embedding_model="x", text="four")):
        assert await asked.embedded(embed) is asked


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        (Prompts(), "a text, or an embedding"),
        (Prompts(text="four", embedding_model="x"), "from m here, and those of x cannot be compared"),
    ],
)
async def test_what_can_have_no_embedding_is_refused(asked: Prompts, says: str) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        await asked.embedded(embed)


JSON = st.recursive(st.none() | st.text() | st.floats(), lambda inner: st.dictionaries(st.text(), inner))


@pytest.mark.parametrize("kind", QUESTIONS.values(), ids=QUESTIONS)
@given(data=st.binary() | JSON.map(msgspec.json.encode))
def test_whatever_comes_is_a_question_or_refused(kind: type[Recent], data: bytes) -> None:
    with contextlib.suppress(InvalidQuestion):
        assert isinstance(parse(data, kind), kind)
