"""The client's keywords and payloads, and what importing it costs an agent."""

from __future__ import annotations

import subprocess
import sys
from array import array
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pytest

from tests.factory import decision
from tracker_daemon.client import DecisionTracker, keywords
from tracker_daemon.client.payload import check, new_id, recorded, written
from tracker_daemon.errors import InvalidPayload, InvalidQuestion
from tracker_daemon.messages import decode
from tracker_daemon.messages.decode import DecisionFields, OutcomeFields
from tracker_daemon.messages.records import Contract
from tracker_daemon.queries import QUESTIONS, Found, Searched

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.errors import TrackerError
    from tracker_daemon.messages import Message

ALIASES = {"decision_id", "created_at", "metadata", "outcome_pnl", "observed_at"}


def read(**fields: Any) -> Any:
    """What a daemon makes of a decision with these fields."""
    message = written("llm.decisions", decision(**fields))
    return decode(message, Contract(embedding_dimensions=3))


def test_its_keywords_are_the_contracts_fields_and_the_questions_conditions() -> None:
    made = set(keywords.Decision.__annotations__) - {"extra"}
    assert made == set(DecisionFields.__struct_fields__) - ALIASES
    known = {"decision_id", "outcome", "pnl"}
    told = set(keywords.Event.__annotations__) - {"extra"}
    assert told | known == set(OutcomeFields.__struct_fields__) - {"id", "outcome_pnl", "observed_at"}
    for kind, question in (
        (keywords.Maturing, "stats"),
        (keywords.Stating, "calibration"),
        (keywords.Listing, "recent"),
        (keywords.Listing, "search"),
    ):
        fields = set(QUESTIONS[question].__struct_fields__)
        assert set(kind.__annotations__) | {"agent_name"} == fields - {"group_by", "text"}
    positional = {"symbol", "situation", "limit", "agent_name"}
    asked = set(QUESTIONS["similar"].__struct_fields__) - {"context"}
    assert set(keywords.Resembling.__annotations__) | positional == asked
    positional = {"agent_name", "symbol", "situation", "token_budget"}
    asked = set(QUESTIONS["context"].__struct_fields__) - {"context"}
    assert set(keywords.Informing.__annotations__) | positional == asked
    asked = set(QUESTIONS["prompts"].__struct_fields__)
    assert set(keywords.Embedding.__annotations__) | {"text", "limit", "agent_name"} == asked


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (Decimal("250.12345678"), "250.12345678"),
        (Decimal("1E+3"), "1000"),
        (0.1, "0.1"),
        ("0.10", "0.1"),
        (12, "12"),
        (array("d", [1.25])[0], "1.25"),
    ],
)
def test_money_keeps_every_digit(given: Any, kept: str) -> None:
    assert read(pnl=given).first_outcome.pnl == Decimal(kept)


class Stamp(datetime):
    """A time as pandas has it."""


def test_times_of_pandas_are_times() -> None:
    made = read(timestamp=Stamp(2026, 1, 1, 12, tzinfo=UTC), context={"bar": Stamp(2026, 1, 1)})
    assert made.created_at == datetime(2026, 1, 1, 12, tzinfo=UTC)
    assert msgspec.json.decode(made.context) == {"bar": "2026-01-01T00:00:00"}


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("prompt_embedding", 5),
        ("response", None),
        ("context", [1]),
        ("timestamp", "yesterday"),
        ("extra", 5),
        ("extra", {"new": object()}),
        ("prompt", "\ud800"),
        ("tokens_used", 2**70),
    ],
)
def test_whatever_is_given_is_an_invalid_payload_at_worst(name: str, given: Any) -> None:
    fields = decision() | {name: given}
    with pytest.raises(InvalidPayload):
        check(written("llm.decisions", fields), fields)


def test_its_time_is_that_of_the_call() -> None:
    """Unless another is given; None is none."""
    before = datetime.now(UTC)
    payload = msgspec.json.decode(written("llm.decisions", decision() | {"timestamp": None}).payload)
    assert before <= datetime.fromisoformat(payload["timestamp"]) <= datetime.now(UTC)
    assert read(timestamp="2026-11-23T10:00:00Z").created_at == datetime(2026, 11, 23, 10, tzinfo=UTC)


@pytest.mark.parametrize("given", [float("nan"), float("inf"), Decimal("nan"), "many", True])
def test_what_is_no_number_is_not_taken_for_none(given: Any) -> None:
    fields = decision(pnl=given)
    with pytest.raises(InvalidPayload, match="invalid_field at pnl"):
        check(written("llm.decisions", fields), fields)


def test_arrays_are_lists_and_keys_texts() -> None:
    """Arrays of numpy, pandas and torch have `tolist`, as that of the standard library has."""
    fields = decision(prompt_embedding=array("f", [1, -0.5, 0.25]), context={7: array("l", [3])})
    message = written("llm.decisions", fields)
    check(message, fields)
    payload = msgspec.json.decode(message.payload)
    assert (payload["prompt_embedding"], payload["context"]) == ([1, -0.5, 0.25], {"7": [3]})


def test_a_context_that_is_asked_about_is_read_as_one_that_is_tracked() -> None:
    context = {"last": array("d", [62.5]), "price": Decimal("1E+3"), 7: float("nan"), "at": UUID(int=7)}
    assert recorded(context) == msgspec.json.decode(read(context=context).context)
    with pytest.raises(InvalidQuestion, match="cannot be written as JSON"):
        recorded({"new": object()})


@pytest.mark.parametrize("address", ["nats://a:secret@127.0.0.1:4222", "postgresql://a:secret@127.0.0.1/db"])
def test_an_address_instead_of_a_side_is_refused_with_what_takes_one(address: str) -> None:
    with pytest.raises(TypeError, match=r"over_nats\(servers\).*on_postgres\(dsn\)") as refused:
        DecisionTracker(address)  # type: ignore[arg-type]
    assert "secret" not in str(refused.value)


def test_an_unknown_field_is_said_as_extra_and_overrides_nothing() -> None:
    told = read(extra={"temperature": 0.2, "symbol": "ETH"})
    assert (told.symbol, told.extra) == ("BTC", '{"temperature":0.2}')


def test_ids_are_ordered_by_time() -> None:
    ids = [new_id() for _ in range(100)]
    assert sorted(ids, key=lambda id_: id_.int >> 64) == ids
    assert {id_.version for id_ in ids} == {7}
    assert len(set(ids)) == 100


async def test_keywords_that_do_not_exist_or_are_missing_are_refused_as_pythons_are() -> None:
    tracker: Any = DecisionTracker.over_nats("nats://127.0.0.1:1")
    for call, word in (
        (tracker.track_decision(**decision(), confidance=0.8), "unexpected keyword argument 'confidance'"),
        (tracker.track_signal_decision(agent_name="momentum"), "missing a required .*: 'model'"),
        (tracker.track_risk_decision(**decision(), approved=True), "unexpected .*'decision_type'"),
        (tracker.update_decision_outcome(UUID(int=7), "SUCCESS", when=1), "unexpected .*'when'"),
    ):
        with pytest.raises(TypeError, match=word):
            await call
    with pytest.raises(TypeError, match=r"decision\(\) got an unexpected keyword argument 'response'"):
        tracker.decision(**decision())
    await tracker.close()


class Daemon:
    """Answers searches with these pages, one after the other."""

    def __init__(self, *pages: Searched) -> None:
        """Keep them."""
        self._pages = list(pages)
        self.asked: list[tuple[int, str | None]] = []

    async def ask(self, question: Any) -> Any:
        """Take the next page."""
        self.asked.append((question.limit, question.cursor))
        return self._pages.pop(0)

    async def send(self, messages: Sequence[Message]) -> list[TrackerError | None]:
        """Take them."""
        return [None] * len(messages)

    async def close(self) -> None:
        """Have nothing to give up."""


async def test_pages_of_a_search_are_joined_with_what_any_of_them_has_left_out() -> None:
    """The index catches up meanwhile: what the first page misses, the last one may have looked at."""
    nobodys: Any = None
    first, second, third = (Found(nobodys, f"hit {number}") for number in range(3))
    pages = (
        Searched((first,), "a", 80, None),
        Searched((second,), "b", 90, None),
        Searched((third,), "c", 0, None),
    )
    daemon = Daemon(*pages)
    found = await DecisionTracker(daemon).search_decisions("hit", limit=3)
    assert found == Searched((first, second, third), "c", 90, None)
    assert daemon.asked == [(3, None), (2, "a"), (1, "b")]


async def test_a_search_ends_where_a_page_has_looked_at_enough() -> None:
    """Or a single call would have daemons read the whole record."""
    daemon = Daemon(Searched((), "a", 0, 10_000))
    assert await DecisionTracker(daemon).search_decisions("hit") == Searched((), "a", 0, 10_000)
    assert daemon.asked == [(20, None)]


def test_an_agent_loads_what_it_needs() -> None:
    """Neither side's driver before there is a tracker, and no part of the daemon over NATS."""
    script = """
import sys
from tracker_daemon.client import DecisionTracker
print(*sorted({"nats", "structlog", "prometheus_client", "tracker_daemon.store"} & sys.modules.keys()))
DecisionTracker.over_nats("nats://127.0.0.1:1")
print(*sorted({"nats", "structlog", "prometheus_client", "tracker_daemon.store"} & sys.modules.keys()))
"""
    command = [sys.executable, "-c", script]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["", "nats"]
