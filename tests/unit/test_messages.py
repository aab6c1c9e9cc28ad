"""Payloads become records: what JSON Schema cannot say, and the exact reason and field of every refusal."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from tests.factory import CONTRACT, decision, outcome
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, Decision, Message, Outcome, dead_letter, decode
from tracker_daemon.messages.decode import DecisionFields, OutcomeFields
from tracker_daemon.messages.payload import MAX_DEPTH

if TYPE_CHECKING:
    from collections.abc import Iterator

NS: Final = 1_772_461_800_123_456_789
"""2026-03-02T14:30:00.123456789Z, at which the stream stored the messages of these tests."""
ID: Final = UUID("0195f6a2-7c1e-7d3a-9b54-2f6f1f0a9c11")
OTHER_ID: Final = UUID("5d1f9b0e-33f5-4f7e-8f0b-0a4f7a0f6d52")


def at(
    payload: dict[str, Any] | bytes = b"{}",
    *,
    stream: str | None = "LLM",
    sequence: int | None = 7,
    ns: int = NS,
    subject: str = "llm.decisions",
    headers: dict[str, str] | None = None,
) -> Message:
    """A message at a fixed place in the stream."""
    body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    return Message(subject, body, stream=stream, sequence=sequence, published_ns=ns, headers=headers)


def decided(payload: dict[str, Any] | bytes, **place: Any) -> Decision:
    """The decision that a payload holds."""
    record = decode(at(payload, **place), CONTRACT)
    assert isinstance(record, Decision)
    return record


def ended(payload: dict[str, Any] | bytes, **place: Any) -> Outcome:
    """The outcome that a payload holds."""
    record = decode(at(payload, subject="llm.outcomes", **place), CONTRACT)
    assert isinstance(record, Outcome)
    return record


def refusal(payload: dict[str, Any] | bytes, subject: str = "llm.decisions") -> InvalidPayload:
    """Why a payload is refused."""
    with pytest.raises(InvalidPayload) as raised:
        decode(at(payload, subject=subject), CONTRACT)
    return raised.value


def with_json(*members: str | bytes) -> bytes:
    """A decision with more members, which are JSON text: `"name": value`."""
    texts = [member if isinstance(member, bytes) else member.encode() for member in members]
    return b",".join([json.dumps(decision()).encode()[:-1], *texts]) + b"}"


# Identity


def test_identity_is_the_same_on_every_delivery() -> None:
    assert at(b"1").identity == at(b"2", headers={"a": "b"}).identity


@pytest.mark.parametrize("place", [{"stream": "LLM2"}, {"sequence": 8}, {"ns": NS + 1}])
def test_identity_differs_by_stream_sequence_and_time(place: dict[str, Any]) -> None:
    assert at(**place).identity != at().identity


@pytest.mark.parametrize("stream", ["LLM", None])
@given(ns=st.integers(0, 2**63 - 1), sequence=st.integers(1, 2**63 - 1))
def test_identity_is_laid_out_as_uuid_version_7(stream: str | None, ns: int, sequence: int) -> None:
    """48 bits of milliseconds, the version, 12 bits of the time within the millisecond, the variant."""
    identity = at(stream=stream, sequence=sequence, ns=ns).identity
    assert identity.version == 7
    assert identity.variant == "specified in RFC 4122"
    assert identity.int >> 80 == ns // 1_000_000
    assert identity.int >> 64 & 0xFFF == ns % 1_000_000 * 4096 // 1_000_000


@given(
    ns=st.integers(0, 2**62),
    later=st.integers(245, 10**18),
    sequences=st.tuples(*[st.integers(1, 2**40)] * 2),
)
def test_identities_are_ordered_by_time(ns: int, later: int, sequences: tuple[int, int]) -> None:
    """To a 4096th of a millisecond, in the order of UUIDs that PostgreSQL has too."""
    first, second = at(ns=ns, sequence=sequences[0]), at(ns=ns + later, sequence=sequences[1])
    assert first.identity.bytes < second.identity.bytes


def test_in_core_mode_identity_is_random_and_stays_the_messages_own() -> None:
    one, other = (at(stream=None, sequence=None) for _ in range(2))
    assert one.identity != other.identity
    assert len({one.identity for _ in range(3)}) == 1
    letter = dead_letter(one, InvalidPayload("missing_field", "model", "required"))
    assert letter.id == one.identity


def test_an_identity_read_back_from_the_database_is_kept() -> None:
    message = Message("llm.decisions", b"", stream="LLM", sequence=7, published_ns=NS, known_identity=ID)
    assert message.identity == ID


def test_a_decision_has_the_id_that_it_gives_or_else_its_identity() -> None:
    assert decided(decision(id=str(ID))).id == ID
    assert decided(decision()).id == at().identity
    assert decided(decision(), sequence=8).id != at().identity


def test_an_outcome_is_an_event_of_its_message() -> None:
    """So the same outcome published twice is two events, and one delivered twice is one."""
    first, again, other = (ended(outcome(ID), sequence=sequence) for sequence in (7, 7, 8))
    assert first.event_id == again.event_id == at().identity
    assert first.event_id != other.event_id
    assert first.decision_id == other.decision_id == ID


# Times


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-03-02T14:30:00.123456789Z", datetime(2026, 3, 2, 14, 30, 0, 123457, UTC)),
        ("2026-03-02T14:30:00.123456Z", datetime(2026, 3, 2, 14, 30, 0, 123456, UTC)),
        ("2026-03-02T20:00:00.123456789+05:30", datetime(2026, 3, 2, 14, 30, 0, 123457, UTC)),
        ("2026-03-02T00:30:00-14:00", datetime(2026, 3, 2, 14, 30, tzinfo=UTC)),
        ("2026-03-02T14:30:00", datetime(2026, 3, 2, 14, 30, tzinfo=UTC)),
        ("2026-03-02 14:30:00.5", datetime(2026, 3, 2, 14, 30, 0, 500000, UTC)),
        ("2026-12-31T23:59:59.9999999Z", datetime(2027, 1, 1, tzinfo=UTC)),
    ],
)
def test_times_are_utc_to_the_microsecond(text: str, expected: datetime) -> None:
    """Go's nanoseconds are rounded, offsets are resolved, without an offset UTC is meant."""
    for record in (decided(decision(timestamp=text)), decided(decision(created_at=text))):
        assert record.created_at == expected
        assert record.created_at.tzinfo is UTC
    for name in ("timestamp", "observed_at"):
        observed_at = ended(outcome(ID, **{name: text})).observed_at
        assert observed_at == expected
        assert observed_at.tzinfo is UTC


@pytest.fixture
def far_from_utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Run the test on a machine whose local time is not UTC."""
    with monkeypatch.context() as patch:
        patch.setenv("TZ", "EST+5")
        time.tzset()
        yield
    time.tzset()


@pytest.mark.usefixtures("far_from_utc")
def test_the_machines_time_zone_does_not_matter() -> None:
    expected = datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    assert decided(decision(timestamp="2026-03-02T14:30:00")).created_at == expected
    assert at(ns=1_772_461_800 * 10**9).published_at == expected


def test_without_a_time_the_streams_time_counts() -> None:
    stored = datetime(2026, 3, 2, 14, 30, 0, 123456, UTC)
    assert decided(decision()).created_at == stored
    assert ended(outcome(ID)).observed_at == stored
    assert ended(outcome(ID, timestamp="2020-01-01T00:00:00Z")).received_at == stored


@given(st.integers(0, 4_000_000_000 * 10**9))
def test_the_streams_time_is_cut_to_the_microsecond(ns: int) -> None:
    since = at(ns=ns).published_at - datetime(1970, 1, 1, tzinfo=UTC)
    assert since // timedelta(microseconds=1) == ns // 1000


# Two names of a field

DECISION_ALIASES: Final = [
    ("id", "decision_id", f'"{ID}"', f'"{ID.hex.upper()}"', f'"{OTHER_ID}"'),
    (
        "timestamp",
        "created_at",
        '"2026-03-02T14:30:00Z"',
        '"2026-03-02T16:30:00+02:00"',
        '"2026-03-02T14:30:01"',
    ),
    ("context", "metadata", '{"rsi": 41.5, "n": [1]}', '{"n":[1],"rsi":4.15e1}', '{"rsi": 41.5, "n": [2]}'),
    ("pnl", "outcome_pnl", "1.50", '"1.5"', "1.50000001"),
]
OUTCOME_ALIASES: Final = [
    ("decision_id", "id", *DECISION_ALIASES[0][2:]),
    ("timestamp", "observed_at", *DECISION_ALIASES[1][2:]),
    DECISION_ALIASES[3],
]


@pytest.mark.parametrize(("name", "alias", "value", "same", "other"), DECISION_ALIASES)
def test_two_names_of_a_decisions_field_must_agree(
    name: str, alias: str, value: str, same: str, other: str
) -> None:
    """They agree when they mean the same, however it is written."""
    record = decided(with_json(f'"{name}": {value}'))
    assert decided(with_json(f'"{alias}": {value}')) == record
    assert decided(with_json(f'"{name}": {value}', f'"{alias}": {same}')) == record
    error = refusal(with_json(f'"{name}": {value}', f'"{alias}": {other}'))
    assert (error.reason, error.field) == ("invalid_field", alias)
    assert name in error.detail


@pytest.mark.parametrize(("name", "alias", "value", "same", "other"), OUTCOME_ALIASES)
def test_two_names_of_an_outcomes_field_must_agree(
    name: str, alias: str, value: str, same: str, other: str
) -> None:
    least = ['"outcome": "SUCCESS"', *([] if name == "decision_id" else [f'"decision_id": "{ID}"'])]

    def payload(*members: str) -> bytes:
        return f"{{{','.join([*least, *members])}}}".encode()

    record = ended(payload(f'"{name}": {value}'))
    assert ended(payload(f'"{alias}": {value}')) == record
    assert ended(payload(f'"{name}": {value}', f'"{alias}": {same}')) == record
    error = refusal(payload(f'"{name}": {value}', f'"{alias}": {other}'), "llm.outcomes")
    assert (error.reason, error.field) == ("invalid_field", alias)
    assert name in error.detail


@pytest.mark.parametrize("name", ["pnl", "outcome_pnl", "timestamp", "created_at", "id", "decision_id"])
def test_a_bad_value_is_refused_by_the_name_that_the_agent_wrote(name: str) -> None:
    assert refusal(decision(**{name: "many"})).field == name


# A key twice


@pytest.mark.parametrize(
    ("first", "last", "field", "expected"),
    [
        ('"symbol": "A"', '"symbol": "B"', "symbol", "B"),
        ('"symbol": 5', '"symbol": "B"', "symbol", "B"),
        ('"prompt": null', '"prompt": "B"', "prompt", "B"),
        ('"confidence": "0.5"', '"confidence": null', "confidence", None),
        ('"confidence": true', '"confidence": 0.25', "confidence", Decimal("0.2500")),
        ('"id": "x"', f'"id": "{ID}"', "id", ID),
        ('"prompt_embedding": {}', '"prompt_embedding": null', "prompt_embedding", None),
        ('"context": 5', '"context": {"a": 1}', "context", '{"a": 1}'),
        ('"x": {"y": 1e400}', '"x": 1', "extra", '{"x":1}'),
        ('"timestamp": "today"', '"timestamp": "2026-03-02T14:30:00Z"', "timestamp", None),
        ('"prompt": "\\u0000"', '"prompt": "B"', "prompt", "B"),
        ('"s\\u0079mbol": 5', '"symbol": "B"', "symbol", "B"),
    ],
)
def test_of_a_duplicate_key_the_last_wins(first: str, last: str, field: str, expected: Any) -> None:
    """Also when the earlier one has the wrong type: what is overridden does not exist."""
    record = decided(with_json(first, last))
    if field == "timestamp":
        assert record.created_at == datetime(2026, 3, 2, 14, 30, tzinfo=UTC)
    else:
        assert getattr(record, field) == expected


def test_of_a_duplicate_key_the_last_is_the_one_refused() -> None:
    assert refusal(with_json('"confidence": 0.5', '"confidence": "x"')).field == "confidence"
    assert refusal(with_json('"symbol": "A"', '"symbol": 5')).field == "symbol"
    assert refusal(with_json('"symbol": null')).reason == "missing_field"


# Exact numbers


@pytest.mark.parametrize(
    ("field", "text", "expected"),
    [
        ("pnl", "25.050000000000001", "25.05000000"),
        ("pnl", "123456789012.12345678", "123456789012.12345678"),
        ("pnl", "-999999999999.99999999", "-999999999999.99999999"),
        ("pnl", "0.1", "0.10000000"),
        ("pnl", "1e-8", "0.00000001"),
        ("pnl", "1.5E3", "1500.00000000"),
        ("pnl", "0.000000005", "0.00000000"),
        ("pnl", "0.000000015", "0.00000002"),
        ("pnl", "0.000000025", "0.00000002"),
        ("pnl", "0.00000002500000000000000000000000000001", "0.00000003"),
        ("pnl", "-0.000000015", "-0.00000002"),
        ("pnl", "-0.000000001", "0.00000000"),
        ("pnl", "999999999999.999999985", "999999999999.99999998"),
        ("cost_usd", "0.0000005", "0.000000"),
        ("cost_usd", "0.0000015", "0.000002"),
        ("cost_usd", "12345678.123456", "12345678.123456"),
        ("confidence", "0.00005", "0.0000"),
        ("confidence", "0.00015", "0.0002"),
        ("confidence", "0.99995", "1.0000"),
        ("confidence", "0.87654321", "0.8765"),
        ("propensity", "0.12345678905", "0.1234567890"),
        ("propensity", "0.0000000001", "0.0000000001"),
    ],
)
def test_decimals_are_exact_and_rounded_half_even(field: str, text: str, expected: str) -> None:
    """As a JSON number; and the same digits as a string, where strings have no exponent."""
    spellings = [text] if "e" in text.lower() else [text, f'"{text}"']
    for spelling in spellings:
        record = decided(with_json(f'"{field}": {spelling}'))
        value = record.first_outcome.pnl if record.first_outcome else getattr(record, field)
        assert f"{value:f}" == expected


@given(st.decimals("-999999999999", "999999999999", places=8))
def test_no_pnl_goes_through_a_float(pnl: Decimal) -> None:
    for spelling in (f"{pnl:f}", f'"{pnl:f}"'):
        for name in ("pnl", "outcome_pnl"):
            payload = f'{{"decision_id": "{ID}", "outcome": "SUCCESS", "{name}": {spelling}}}'
            assert ended(payload.encode()).pnl == pnl


@pytest.mark.parametrize(
    "spelling",
    ["1000000000000", "-999999999999.999999995", "1e12", "1e400", '"1e2"', '"x"', "true", "[1]", "{}"],
)
def test_a_pnl_that_does_not_fit_is_refused(spelling: str) -> None:
    error = refusal(with_json(f'"pnl": {spelling}'))
    assert (error.reason, error.field) == ("invalid_field", "pnl")


@pytest.mark.parametrize("text", ["12", "12.0", "1.2e1"])
def test_whole_numbers_are_integers_however_written(text: str) -> None:
    record = decided(with_json(f'"tokens_used": {text}', f'"latency_ms": {text}'))
    assert (record.tokens_used, record.latency_ms) == (12, 12)
    assert type(record.tokens_used) is type(record.latency_ms) is int


def test_an_embedding_is_kept_as_float32() -> None:
    vector = decided(decision(prompt_embedding=[0.5, -1, 1e-3])).prompt_embedding
    assert vector is not None
    assert vector.to_list() == pytest.approx([0.5, -1.0, 1e-3])


@pytest.mark.parametrize("word", ["success", "Success", "SUCCESS"])
def test_outcomes_are_upper_case(word: str) -> None:
    assert ended(outcome(ID, word)).outcome == "SUCCESS"


# The action


@pytest.mark.parametrize(
    ("response", "action"),
    [
        ('{"action": "BUY"}', "BUY"),
        ('{"side": "sell"}', "sell"),
        ('\n {"confidence": 0.8, "action": "BUY", "reasons": ["a", {"b": null}]} ', "BUY"),
        ('{"action": "BUY", "side": "SELL"}', "BUY"),
        ('{"action": "BUY", "action": "SELL"}', "SELL"),
        ('{"action": null, "side": "LONG"}', "LONG"),
        ('{"action": 1, "side": "LONG"}', "LONG"),
        ('{"action": {"kind": "BUY"}, "side": ["LONG"]}', None),
        ('{"action": "", "side": "LONG"}', "LONG"),
        ('{"action": "' + "x" * 20 + '"}', "x" * 20),
        ('{"action": "' + "x" * 21 + '"}', None),
        ('{"action": "' + "x" * 21 + '", "side": "LONG"}', "LONG"),
        ('{"action": "B\\u0000"}', None),
        ('{"action": "\\ud800"}', None),
        ('{"action": "📈"}', "📈"),
        ('{"Action": "BUY"}', None),
        ('{"signal": {"action": "BUY"}}', None),
        ('[{"action": "BUY"}]', None),
        ('"BUY"', None),
        ("I would BUY.", None),
        ('{"action": "BUY"} because', None),
        ('{"action": "BUY"', None),
        ('Sure: {"action": "BUY"}', None),
        ("{", None),
        ("", None),
        ('{"action": ' + "[" * 100_000 + "]" * 100_000 + "}", None),
        ('{"a": ' * 100_000 + "1" + "}" * 100_000, None),
        ('{"n": 1e400, "action": "BUY"}', "BUY"),
    ],
    ids=lambda text: str(text)[:40],
)
def test_the_action_is_read_from_a_json_response(response: str, action: str | None) -> None:
    """Most responses are prose, so nothing about them is an error, and the response is kept as it came."""
    record = decided(decision(response=response))
    assert record.action == action
    assert record.response == response


def test_an_action_that_is_given_counts_more_than_the_response() -> None:
    assert decided(decision(action="HOLD", response='{"action": "BUY"}')).action == "HOLD"


# What is kept as it came


def test_unknown_fields_are_kept() -> None:
    """With all their digits, sorted by key; also those that the other kind of message knows."""
    payload = with_json('"Symbol": "x"', '"b": [1, {"c": null}]', '"a": 0.1234567890123456789', '"note": ""')
    extra = decided(payload).extra
    assert extra is not None
    assert json.loads(extra) == json.loads(
        '{"Symbol":"x","a":0.1234567890123456789,"b":[1,{"c":null}],"note":""}'
    )
    assert "0.1234567890123456789" in extra
    assert list(json.loads(extra)) == ["Symbol", "a", "b", "note"]
    extra = ended(outcome(ID, symbol="BTC", sources=["a"])).extra
    assert extra is not None
    assert json.loads(extra) == {"sources": ["a"], "symbol": "BTC"}


def test_without_unknown_fields_there_is_no_extra() -> None:
    assert decided(decision()).extra is None
    assert ended(outcome(ID, note="a", source="b")).extra is None


@pytest.mark.parametrize("name", ["context", "metadata"])
def test_context_is_kept_as_it_came(name: str) -> None:
    text = '{"b": 0.1234567890123456789,  "a": [12345678901234567890123, "\\u00e9é"]}'
    assert decided(with_json(f'"{name}": {text}')).context == text
    assert decided(with_json(f'"{name}": null')).context is None


# The content hash

FULL: Final[dict[str, str]] = {
    "id": f'"{ID}"',
    "session_id": f'"{ID}"',
    "agent_name": '"momentum"',
    "decision_type": '"signal"',
    "symbol": '"BTC"',
    "prompt": '"Buy, sell or höld?"',
    "prompt_embedding": "[1, 0.5, -2]",
    "response": '"{\\"action\\": \\"BUY\\"}"',
    "model": '"gpt-x"',
    "tokens_used": "120",
    "latency_ms": "350",
    "context": '{"rsi": 41.5, "macd": [-0.8, null], "regime": {"name": "bull", "n": 1}}',
    "confidence": "0.8",
    "timestamp": '"2026-03-02T14:30:00.5Z"',
    "action": '"BUY"',
    "cost_usd": "0.0125",
    "experiment": '"a"',
    "variant": '"b"',
    "propensity": "0.5",
    "embedding_model": '"small"',
    "outcome": '"SUCCESS"',
    "pnl": "123456789012.12345678",
    "desk": '{"name": "fx", "city": "Zürich"}',
}
"""A decision with every field and an unknown one, as JSON text."""

REWRITTEN: Final[dict[str, str]] = {
    "desk": '{"name": "fx", "city": "Zürich"}',
    "outcome_pnl": '"123456789012.12345678"',
    "outcome": '"success"',
    "metadata": '{"regime":{"n":1,"name":"bull"},"macd":[-8e-1,null],"rsi":41.50}',
    "created_at": '"2026-03-02T16:30:00.500000000+02:00"',
    "decision_id": f'"{ID.hex.upper()}"',
    "prompt": '"Buy, sell or h\\u00f6ld?"',
    "confidence": '"0.80"',
    "tokens_used": "1.2e2",
    "prompt_embedding": "[1.0,5e-1,-2e0]",
}
"""Some of its fields, with the same content otherwise written."""

DIFFERENT: Final[dict[str, list[str]]] = {
    "id": [f'"{OTHER_ID}"'],
    "session_id": [f'"{OTHER_ID}"'],
    "agent_name": ['"Momentum"'],
    "decision_type": ['"signals"'],
    "symbol": ['"BTC "'],
    "prompt": ['"Buy, sell or hold?"', '""'],
    "prompt_embedding": ["[1, 0.5, -2.000001]", "[0.5, 1, -2]"],
    "response": ['"{\\"action\\":  \\"BUY\\"}"'],
    "model": ['"gpt-y"'],
    "tokens_used": ["121", "0"],
    "latency_ms": ["351"],
    "context": [
        '{"rsi": 41.5, "macd": [-0.8, null], "regime": {"name": "bull", "n": 2}}',
        '{"rsi": 41.50000000000001, "macd": [-0.8, null], "regime": {"name": "bull", "n": 1}}',
        '{"rsi": 41.5, "macd": [null, -0.8], "regime": {"name": "bull", "n": 1}}',
        '{"rsi": "41.5", "macd": [-0.8, null], "regime": {"name": "bull", "n": 1}}',
        '{"rsi": 41.5, "macd": [-0.8], "regime": {"name": "bull", "n": 1}}',
        "{}",
    ],
    "confidence": ["0.8001", "0"],
    "timestamp": ['"2026-03-02T14:30:00.500001Z"', '"2026-03-02T14:30:00.5+01:00"'],
    "action": ['"buy"'],
    "cost_usd": ["0.012501", "0"],
    "experiment": ['"A"', '""'],
    "variant": ['"c"'],
    "propensity": ["0.5000000001"],
    "embedding_model": ['"large"'],
    "outcome": ['"FAILURE"', '"PENDING"'],
    "pnl": ["123456789012.12345679", "-123456789012.12345678"],
    "desk": ['{"name": "fx", "city": "Zug"}', '{"name": "fx"}', "0.1000000000000000000001"],
}


def content_hash(members: dict[str, str], space: str = " ", **place: Any) -> bytes:
    """The content hash of a decision of these members, which are JSON text."""
    text = f",{space}".join(f'"{name}":{space}{value}' for name, value in members.items())
    return decided(f"{{{space}{text}{space}}}".encode(), **place).content_hash


def test_every_field_of_a_decision_takes_part_in_these_tests() -> None:
    aliases = {alias for _, alias, *_ in DECISION_ALIASES}
    assert set(FULL) - {"desk"} == set(DecisionFields.__struct_fields__) - aliases
    assert set(DIFFERENT) == set(FULL)
    assert {alias for _, alias, *_ in OUTCOME_ALIASES} <= set(OutcomeFields.__struct_fields__)


def test_the_content_hash_is_the_same_however_the_json_is_written() -> None:
    expected = content_hash(FULL)
    aliases = {alias: name for name, alias, *_ in DECISION_ALIASES}
    renamed = {aliases.get(name, name) for name in REWRITTEN}
    rest = {name: text for name, text in reversed(FULL.items()) if name not in renamed}
    assert content_hash(dict(reversed(FULL.items())), "") == expected
    assert content_hash(REWRITTEN | rest, "\n  ") == expected
    assert content_hash({**dict.fromkeys(aliases, "null"), **FULL}) == expected


@pytest.mark.parametrize(
    "text",
    [
        '{"city": "Zürich", "name": "fx"}',
        '{"name":"fx","city":"Zürich"}',
        '{"name":"fx","city":"Z\\u00fcrich"}',
    ],
)
def test_the_content_hash_is_the_same_however_an_unknown_field_is_written(text: str) -> None:
    assert content_hash(FULL | {"desk": text}) == content_hash(FULL)


def test_the_content_hash_does_not_depend_on_the_place_in_the_stream() -> None:
    """Nor on what is derived from it: a decision without id or time published again is the same content."""
    bare = {name: text for name, text in FULL.items() if name not in {"id", "timestamp", "action"}}
    expected = content_hash(bare)
    for place in (
        {"sequence": 8},
        {"ns": NS + 10**9},
        {"stream": "LLM2"},
        {"stream": None, "sequence": None},
    ):
        assert content_hash(bare, **place) == expected


@pytest.mark.parametrize("name", FULL)
def test_the_content_hash_differs_by_every_field(name: str) -> None:
    hashes = [content_hash(FULL | {name: text}) for text in [FULL[name], *DIFFERENT[name]]]
    if name not in {"agent_name", "decision_type", "symbol", "prompt", "response", "model"}:
        hashes.append(content_hash({key: text for key, text in FULL.items() if key != name}))
    assert len(set(hashes)) == len(hashes)


@pytest.mark.parametrize(
    ("value", "other"),
    [
        ("0.1000000000000000000001", "0.1"),
        ("1234567890123456789012345", "1234567890123456789012346"),
    ],
)
@pytest.mark.parametrize("name", ["context", "desk"])
def test_the_content_hash_differs_by_a_far_digit(name: str, value: str, other: str) -> None:
    """Both are stored with all their digits, so they are not the same content."""
    one, two = (content_hash(FULL | {name: f'{{"price": {number}}}'}) for number in (value, other))
    assert one != two


@pytest.mark.parametrize("name", ["context", "desk"])
@pytest.mark.parametrize(
    ("value", "same"),
    [("41.5", "41.50000000000000000"), ("0.1234567890123456789", "1.234567890123456789e-1")],
)
def test_the_content_hash_is_the_same_however_a_long_number_is_written(
    name: str, value: str, same: str
) -> None:
    one, two = (content_hash(FULL | {name: f'{{"price": {number}}}'}) for number in (value, same))
    assert one == two


def test_the_content_hash_tells_fields_apart() -> None:
    """The same words in other fields, and a word that moves from one field to its neighbour."""
    base = {
        name: FULL[name] for name in ("agent_name", "decision_type", "symbol", "prompt", "response", "model")
    }
    swapped = [{"experiment": '"a"', "variant": '"b"'}, {"experiment": '"b"', "variant": '"a"'}]
    moved = [{"experiment": '"a"'}, {"variant": '"a"'}, {"x": '"a"'}, {"action": '"a"'}, {"extra": '"a"'}]
    hashes = {content_hash(base | members) for members in swapped + moved}
    assert len(hashes) == len(swapped + moved)


def test_a_null_field_is_one_that_is_not_carried() -> None:
    bare = {
        name: FULL[name] for name in ("agent_name", "decision_type", "symbol", "prompt", "response", "model")
    }
    nulls = dict.fromkeys(DecisionFields.__struct_fields__, "null")
    assert content_hash(nulls | bare) == content_hash(bare)


# The ledger's first event


@pytest.mark.parametrize(
    ("fields", "word", "pnl"),
    [
        ({"pnl": "1.5"}, "PENDING", Decimal("1.50000000")),
        ({"outcome_pnl": -2}, "PENDING", Decimal("-2.00000000")),
        ({"pnl": 0}, "PENDING", Decimal("0E-8")),
        ({"outcome": "failure"}, "FAILURE", None),
        ({"outcome": "SUCCESS", "pnl": 1}, "SUCCESS", Decimal("1.00000000")),
    ],
)
def test_an_outcome_in_a_decision_is_the_ledgers_first_event(
    fields: dict[str, Any], word: str, pnl: Decimal | None
) -> None:
    made = "2026-03-01T00:00:00Z"
    record = decided(decision(id=str(ID), timestamp=made, **fields))
    assert record.first_outcome == Outcome(
        decision_id=ID,
        event_id=ID,
        outcome=word,
        pnl=pnl,
        observed_at=datetime(2026, 3, 1, tzinfo=UTC),
        received_at=datetime(2026, 3, 2, 14, 30, 0, 123456, UTC),
        stream_sequence=7,
    )


def test_the_first_event_is_one_however_often_its_decision_is_published() -> None:
    one, two = (
        decided(decision(id=str(ID), pnl=1), sequence=sequence).first_outcome for sequence in (7, 1000)
    )
    assert one is not None
    assert two is not None
    assert (one.decision_id, one.event_id) == (two.decision_id, two.event_id)


def test_the_first_event_of_a_decision_without_id_and_time() -> None:
    record = decided(decision(pnl=1))
    assert record.first_outcome is not None
    assert record.first_outcome.decision_id == record.first_outcome.event_id == record.id
    assert record.first_outcome.observed_at == record.created_at


def test_without_outcome_and_pnl_there_is_no_event() -> None:
    assert decided(decision()).first_outcome is None


def test_an_outcome_keeps_all_that_it_carries() -> None:
    record = ended(
        outcome(ID, "PENDING", pnl="1.5", source="desk", note="late", observed_at="2026-03-01T00:00:00Z")
    )
    assert structs.asdict(record) == {
        "decision_id": ID,
        "event_id": at().identity,
        "outcome": "PENDING",
        "pnl": Decimal("1.50000000"),
        "observed_at": datetime(2026, 3, 1, tzinfo=UTC),
        "received_at": datetime(2026, 3, 2, 14, 30, 0, 123456, UTC),
        "source": "desk",
        "note": "late",
        "extra": None,
        "stream_sequence": 7,
    }


# What is refused: reason and field


DEEP: Final = "[" * MAX_DEPTH + "]" * MAX_DEPTH
REFUSED: Final[dict[str, tuple[bytes, str, str | None]]] = {
    "U+0000 in a text": (with_json(r'"note2": 1, "prompt": "a\u0000b"'), "nul_character", "prompt"),
    "U+0000 in a short text": (with_json(r'"symbol": "\u0000"'), "nul_character", "symbol"),
    "U+0000 in context": (with_json(r'"context": {"a": "\u0000"}'), "nul_character", "context.a"),
    "U+0000 deep in context": (
        with_json(r'"context": {"a": {"b": [1, {"c": "x\u0000"}]}}'),
        "nul_character",
        "context.a.b[1].c",
    ),
    "U+0000 under the other name": (with_json(r'"metadata": {"a": "\u0000"}'), "nul_character", "metadata.a"),
    "U+0000 in a key": (with_json(r'"context": {"a\u0000": 1}'), "nul_character", "context.a\0"),
    "U+0000 in an unknown field": (with_json(r'"x": "\u0000"'), "nul_character", "x"),
    "U+0000 deep in an unknown field": (with_json(r'"x": [[], {"y": "\u0000"}]'), "nul_character", "x[1].y"),
    "U+0000 in the name of an unknown field": (with_json(r'"\u0000": 1'), "nul_character", "\0"),
    "U+0000 after escaped backslashes": (with_json(r'"x": "\\\u0000"'), "nul_character", "x"),
    "surrogate in a text": (with_json(r'"prompt": "a\ud800"'), "invalid_field", "prompt"),
    "low surrogate in a text": (with_json(r'"model": "\udc00x"'), "invalid_field", "model"),
    "surrogates in the wrong order": (with_json(r'"model": "\udc00\ud800"'), "invalid_field", "model"),
    "surrogate deep in context": (
        with_json(r'"context": {"a": [0, {"b": "\ud800"}]}'),
        "invalid_field",
        "context.a[1].b",
    ),
    "surrogate in a key": (with_json(r'"context": {"\ud800": 1}'), "invalid_field", "context.\ud800"),
    "surrogate in an unknown field": (with_json(r'"x": {"y": "\udfff"}'), "invalid_field", "x.y"),
    "surrogate in the name of an unknown field": (with_json(r'"x\ud800": 1'), "invalid_field", "x\ud800"),
    "1e400 as confidence": (with_json('"confidence": 1e400'), "invalid_field", "confidence"),
    "1e400 as a cost": (with_json('"cost_usd": 1e400'), "invalid_field", "cost_usd"),
    "1e400 as a count": (with_json('"tokens_used": 1e400'), "invalid_field", "tokens_used"),
    "1e400 as propensity": (with_json('"propensity": 1e400'), "invalid_field", "propensity"),
    "-1e400 as P&L": (with_json('"outcome_pnl": -1e400'), "invalid_field", "outcome_pnl"),
    "1e400 in an embedding": (
        with_json('"prompt_embedding": [1, 1e400, 2]'),
        "invalid_field",
        "prompt_embedding[1]",
    ),
    "1e39 in an embedding": (
        with_json('"prompt_embedding": [1e39, 1, 2]'),
        "invalid_field",
        "prompt_embedding[0]",
    ),
    "1e400 in context": (with_json('"context": {"a": 1e400}'), "invalid_field", "context"),
    "1e400 deep in context": (with_json('"context": {"a": [{"b": -1e400}]}'), "invalid_field", "context"),
    "1e400 under the other name": (with_json('"metadata": {"a": 1e400}'), "invalid_field", "metadata"),
    "deep context": (with_json(f'"context": {{"a": {DEEP}}}'), "invalid_json", None),
    "deep unknown field": (with_json(f'"x": {DEEP}'), "invalid_json", None),
    "deep embedding": (with_json(f'"prompt_embedding": {DEEP}'), "invalid_json", None),
    "deep and never closed": (b'{"a":' * 100_000, "invalid_json", None),
    "bad UTF-8 in a text": (with_json(b'"prompt": "\xff"'), "invalid_json", None),
    "bad UTF-8 in context": (with_json(b'"context": {"a": "\xc3("}'), "invalid_json", None),
    "bad UTF-8 in a key": (with_json(b'"x\x80": 1'), "invalid_json", None),
    "a surrogate in UTF-8": (with_json(b'"x": "\xed\xa0\x80"'), "invalid_json", None),
    "UTF-16": (json.dumps(decision()).encode("utf-16"), "invalid_json", None),
    "empty embedding": (with_json('"prompt_embedding": []'), "wrong_dimension", "prompt_embedding"),
    "short embedding": (with_json('"prompt_embedding": [1, 2]'), "wrong_dimension", "prompt_embedding"),
    "long embedding": (with_json('"prompt_embedding": [1, 2, 3, 4]'), "wrong_dimension", "prompt_embedding"),
    "empty": (b"", "invalid_json", None),
    "white space": (b" \n", "invalid_json", None),
    "prose": (b"BUY", "invalid_json", None),
    "cut off": (json.dumps(decision()).encode()[:-1], "invalid_json", None),
    "two objects": (b"{}{}", "invalid_json", None),
    "NaN": (with_json('"confidence": NaN'), "invalid_json", None),
    "an array": (b"[{}]", "not_an_object", None),
    "a string": (b'"x"', "not_an_object", None),
    "a number": (b"1e400", "not_an_object", None),
    "null": (b"null", "not_an_object", None),
    "no fields": (b"{}", "missing_field", "agent_name"),
    "a null field": (with_json('"model": null'), "missing_field", "model"),
    "a number as text": (with_json('"prompt": 5'), "invalid_field", "prompt"),
    "a boolean as a number": (with_json('"latency_ms": true'), "invalid_field", "latency_ms"),
    "text in an embedding": (
        with_json('"prompt_embedding": [1, "2", 3]'),
        "invalid_field",
        "prompt_embedding[1]",
    ),
    "an array as context": (with_json('"context": []'), "invalid_field", "context"),
    "text as context": (with_json('"metadata": "{}"'), "invalid_field", "metadata"),
    "no UUID": (with_json('"session_id": "7"'), "invalid_field", "session_id"),
    "no time": (with_json('"created_at": "yesterday"'), "invalid_field", "created_at"),
    "another outcome": (with_json('"outcome": "WIN"'), "invalid_field", "outcome"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_names_reason_and_field(name: str) -> None:
    payload, reason, field = REFUSED[name]
    error = refusal(payload)
    assert (error.reason, error.field) == (reason, field)
    assert error.detail
    assert dead_letter(at(payload), error).payload == payload


@pytest.mark.parametrize(
    ("payload", "reason", "field"),
    [
        (b"", "invalid_json", None),
        (b"[]", "not_an_object", None),
        (b"{}", "missing_field", "decision_id"),
        (f'{{"id": "{ID}"}}'.encode(), "missing_field", "outcome"),
        (f'{{"id": "{ID}", "outcome": "WON"}}'.encode(), "invalid_field", "outcome"),
        (f'{{"id": "{ID}", "outcome": "SUCCESS", "note": "\\u0000"}}'.encode(), "nul_character", "note"),
        (f'{{"id": "{ID}", "outcome": "SUCCESS", "source": "\\ud800"}}'.encode(), "invalid_field", "source"),
        (f'{{"id": "{ID}", "outcome": "SUCCESS", "pnl": 1e400}}'.encode(), "invalid_field", "pnl"),
        (f'{{"id": "{ID}", "outcome": "SUCCESS", "x": ["\\u0000"]}}'.encode(), "nul_character", "x[0]"),
        (b'{"id": 7, "outcome": "SUCCESS"}', "invalid_field", "id"),
        (f'{{"id": "{ID}", "outcome": "SUCCESS", "x": {DEEP}}}'.encode(), "invalid_json", None),
    ],
)
def test_a_refused_outcome_names_reason_and_field(payload: bytes, reason: str, field: str | None) -> None:
    error = refusal(payload, "llm.outcomes")
    assert (error.reason, error.field) == (reason, field)


@pytest.mark.parametrize("text", ["1e400", "[1, 1e400]", '{"y": -1e400}'])
def test_a_number_that_no_float_holds_is_refused_in_an_unknown_field(text: str) -> None:
    for error in (
        refusal(with_json('"a": 1', f'"x": {text}', '"y": 2')),
        refusal(f'{{"id": "{ID}", "outcome": "SUCCESS", "x": {text}}}'.encode(), "llm.outcomes"),
    ):
        assert (error.reason, error.field) == ("invalid_field", "x")


@pytest.mark.parametrize("name", ["context", "x"])
@pytest.mark.parametrize(
    "number",
    [
        "0e-9999999999999999999",
        "0E+9999999999999999999",
    ],
)
def test_an_exponent_that_no_decimal_has_is_refused(name: str, number: str) -> None:
    """A float holds the number, which is 0; a numeric of PostgreSQL does not."""
    error = refusal(with_json(f'"{name}": {{"a": {number}}}'))
    assert (error.reason, error.field) == ("invalid_field", name)


@pytest.mark.parametrize("name", ["context", "x"])
def test_u0000_is_refused_in_an_overridden_key_of_what_is_stored_as_it_came(name: str) -> None:
    """PostgreSQL reads also what a later key replaces."""
    error = refusal(with_json(rf'"{name}": {{"a": "\u0000", "a": "b"}}'))
    assert (error.reason, error.field) == ("nul_character", f"{name}.a")


def test_a_surrogate_as_the_whole_payload_is_not_an_object() -> None:
    error = refusal(b'"\\ud800"')
    assert (error.reason, error.field) == ("not_an_object", None)


def test_escaped_backslashes_are_no_u0000() -> None:
    record = decided(with_json(r'"prompt": "\\u0000"', r'"context": {"\\u0000": "\\\\u0000"}'))
    assert record.prompt == r"\u0000"


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert decided(with_json(r'"symbol": "\ud83d\ude00"')).symbol == "😀"


@pytest.mark.parametrize("subject", ["llm.other", "llm.decisions.eu", "llm", "LLM.DECISIONS", ""])
def test_an_unknown_subject_is_refused(subject: str) -> None:
    error = refusal(decision(), subject)
    assert (error.reason, error.field) == ("unknown_subject", None)


def test_subjects_are_the_installations_own() -> None:
    contract = Contract(decisions_subject="a", outcomes_subject="b")
    assert isinstance(decode(at(decision(), subject="a"), contract), Decision)
    assert isinstance(decode(at(outcome(ID), subject="b"), contract), Outcome)
    with pytest.raises(InvalidPayload, match="unknown_subject"):
        decode(at(decision()), contract)


@pytest.mark.parametrize("subject", ["llm.decisions", "llm.other"])
def test_a_payload_over_the_bound_is_too_large_whatever_it_holds(subject: str) -> None:
    contract = Contract(max_payload_bytes=500)
    for payload in (b"x" * 501, json.dumps(decision(prompt="x" * 500)).encode()):
        with pytest.raises(InvalidPayload) as raised:
            decode(at(payload, subject=subject), contract)
        assert (raised.value.reason, raised.value.field) == ("too_large", None)
        assert f"{len(payload)} bytes" in raised.value.detail


def test_a_payload_of_just_the_bound_fits() -> None:
    payload = json.dumps(decision()).encode()
    assert isinstance(decode(at(payload), Contract(max_payload_bytes=len(payload))), Decision)


def test_a_payload_may_nest_up_to_its_bound() -> None:
    """Brackets in texts do not count, nor do those that are closed again."""
    inner = "[" * (MAX_DEPTH - 2) + "]" * (MAX_DEPTH - 2)
    siblings = ",".join(["[{}]"] * MAX_DEPTH)
    payload = with_json(f'"context": {{"a": {inner}}}', f'"x": [{siblings}]', f'"y": "\\"{"[{" * MAX_DEPTH}"')
    assert decided(payload).context == f'{{"a": {inner}}}'
    assert refusal(with_json(f'"context": {{"a": [{inner}]}}')).reason == "invalid_json"


# Dead letters


def test_a_dead_letter_keeps_all_that_a_replay_needs() -> None:
    message = at(b'{"a": 1', headers={"Nats-Msg-Id": "x", "Trace": "é😀"})
    letter = dead_letter(message, InvalidPayload("invalid_json", None, "cut off"))
    headers = letter.headers
    assert headers is not None
    assert json.loads(headers) == {"Nats-Msg-Id": "x", "Trace": "é😀"}
    assert structs.asdict(letter) == {
        "id": message.identity,
        "subject": "llm.decisions",
        "stream": "LLM",
        "stream_sequence": 7,
        "published_at": datetime(2026, 3, 2, 14, 30, 0, 123456, UTC),
        "reason": "invalid_json",
        "field": None,
        "detail": "cut off",
        "headers": headers,
        "payload": b'{"a": 1',
    }


@pytest.mark.parametrize("headers", [None, {}])
def test_a_dead_letter_without_headers_has_none(headers: dict[str, str] | None) -> None:
    assert dead_letter(at(headers=headers), InvalidPayload("invalid_json", None, "x")).headers is None


@pytest.mark.parametrize("bad", ["\0", chr(0xD800), chr(0xDFFF), "\0\udc00\ud800\0"])
def test_what_postgresql_text_cannot_hold_becomes_printable(bad: str) -> None:
    """In headers, subject, field and detail; real characters beside it stay."""
    text, shown = f"a{bad}😀", "a" + "\ufffd" * len(bad) + "😀"
    message = at(subject=text, headers={text: text, "plain": "x"})
    letter = dead_letter(message, InvalidPayload("invalid_field", text, text))
    assert (letter.subject, letter.field, letter.detail) == (shown, shown, shown)
    assert letter.headers is not None
    assert "\\u0000" not in letter.headers
    assert json.loads(letter.headers) == {shown: shown, "plain": "x"}


@pytest.mark.parametrize("payload", [with_json(r'"a\u0000b": 1'), with_json(r'"a\ud800b": 1')])
def test_a_key_that_cannot_be_stored_is_named_all_the_same(payload: bytes) -> None:
    letter = dead_letter(at(payload), refusal(payload))
    assert letter.field == "a\ufffdb"
    letter.detail.encode()


def test_a_field_path_has_a_bounded_length() -> None:
    """A path is made of the payload's keys, which may be as long as the payload."""
    payload = with_json('"' + "k" * 10_000 + '": "\\u0000"')
    field = dead_letter(at(payload), refusal(payload)).field
    assert field is not None
    assert field == "k" * len(field)
    assert len(field) <= 500


def test_a_core_mode_dead_letter_has_no_position() -> None:
    message = at(stream=None, sequence=None)
    letter = dead_letter(message, InvalidPayload("invalid_json", None, "x"))
    assert (letter.stream, letter.stream_sequence) == (None, None)
    assert letter.id == message.identity
