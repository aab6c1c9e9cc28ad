"""PostgreSQL as the oracle: what the decoder accepts, the tables take and give back."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID, uuid5

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.factory import decision, delivery, message
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Decision, Outcome

if TYPE_CHECKING:
    import asyncpg
    from hypothesis.strategies import SearchStrategy

    from tracker_daemon.messages import Delivery, Result
    from tracker_daemon.store import Store

EXAMPLES: Final = 1500
BATCH_ROWS: Final = 250
NAMESPACE: Final = UUID("0195f3c0-7b6a-7c3e-9a52-3f1d2c4b5a69")

Members = dict[str, str]
"""JSON text by key; in it, ID1 stands for a UUID that no other message has, ID2 for its upper case."""


AS_IT_IS: Final = sorted(
    set(Decision.__struct_fields__) - {"prompt_embedding", "context", "extra", "first_outcome", "to_embed"}
)
"""Columns that must be read back just as they were decoded."""


# Text


def quoted(texts: SearchStrategy[str]) -> SearchStrategy[str]:
    """Texts as JSON strings, with their characters as they are or as escapes."""
    return st.builds(json.dumps, texts, ensure_ascii=st.booleans())


characters = st.characters(codec="utf-8", exclude_characters="\0") | st.sampled_from(
    "\x01\x1f\x7f\x85\u2028\ufdd0\ufeff\ufffd\uffff\U00010000\U0001f600\U000e0001\U000f0000\U0010ffff\"\\'"
)
words = st.text(characters, max_size=12)


def text(limit: int, least: int = 1) -> SearchStrategy[str]:
    """Short text, and text of just the limit in characters, whatever their bytes, or one more."""
    short = st.text(characters, min_size=least, max_size=min(limit, 12))
    full = st.text(characters, min_size=1, max_size=4).map(lambda some: (some * limit)[:limit])
    return quoted(st.one_of(short, short, full, full, full.map("{}x".format)))


# Numbers, as they are written


def decimal(places: int, *edges: str) -> SearchStrategy[str]:
    """A decimal around the bounds and the rounding of a column, as a number or a string."""
    digits = st.text("0123456789", min_size=1, max_size=places + 3)
    ties = st.integers(0, 9).map(lambda digit: "0" * (places - 1) + f"{digit}5")
    whole = st.sampled_from(["0", "1", "99999999", "999999999999", "-0", "-1", "-999999999999"])
    spelled = st.builds("{}.{}".format, whole, digits | ties) | st.sampled_from(edges)
    return spelled | spelled.map('"{}"'.format)


exponents = st.builds("{}{}".format, st.sampled_from(["e", "E", "e+", "e-"]), st.integers(0, 20_000))
digits = st.text("0123456789", min_size=1, max_size=30) | st.builds(
    str.__mul__, st.sampled_from(["0", "9", "37"]), st.integers(1, 9000)
)
edges = st.sampled_from(
    [
        *("-0", "-0.0", "0e0", "0E-16383", "0e-16384", "1e-16383", "1e-16384"),
        *("0e1073741822", "0e1073741823", "-0.00e2000000000"),
        *("1e308", "-1e308", "1.7976931348623157e308", "1.8e308", "1e400", "5e-324", "1e-400"),
        *("9007199254740993", "18446744073709551616", "123456789012345678901234567890"),
        *("9" * 308, "9" * 309, f"1{'0' * 308}.5", f"0.{'0' * 16382}1", f"0.{'0' * 16383}1"),
    ]
)
numbers = st.one_of(
    st.floats(allow_nan=False, allow_infinity=False).map(repr),
    st.integers().map(str),
    st.builds("{}{}.{}{}".format, st.sampled_from(["", "-"]), st.integers(0, 10**20), digits, exponents),
    st.builds("{}.{}".format, st.integers(-(10**20), 10**20), digits),
    edges,
)
wholes = st.one_of(
    st.integers(0, 2**31 - 1).map(str),
    st.sampled_from(["0", "-0", "-0.0", "12.0", "1.2e1", "2147483647.0", "2.147483647e9"]),
    st.sampled_from(["2147483647", "2147483648", "1.5", "-1", "1e-400", "1e5000"]),
)
float32s = st.one_of(
    st.floats(width=32, allow_nan=False, allow_infinity=False).map(repr),
    st.sampled_from(["3.4028234663852886e38", "-3.4028234663852886e38", "3.4028235e38", "3.5e38"]),
    st.sampled_from(["1.17549435e-38", "1e-45", "1e-46", "1e-400", "-0.0", "16777217", str(10**30)]),
)
embeddings = st.lists(float32s, min_size=3, max_size=3).map(lambda row: f"[{','.join(row)}]")


# JSON values


def array(items: list[str]) -> str:
    """The items' JSON text as an array."""
    return f"[{','.join(items)}]"


def object_(members: list[tuple[str, str]]) -> str:
    """Keys and the JSON text of their values as an object; a key may come twice."""
    return f"{{{','.join(f'{json.dumps(key)}: {value}' for key, value in members)}}}"


leaves = st.sampled_from(["null", "true", "false", "{}", "[]", '""']) | numbers | quoted(words)
keys = st.sampled_from(["", "a", "b", "a.b[0]"]) | words
values = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4).map(array) | st.lists(st.tuples(keys, inner), max_size=5).map(object_)
    ),
    max_leaves=12,
)
nested = st.builds(lambda depth, value: "[" * depth + value + "]" * depth, st.integers(150, 199), leaves)
long_objects = st.builds(
    lambda size, value: object_([(f"key {number}", value) for number in range(size)]),
    st.integers(500, 2000),
    st.sampled_from(["null", "1.5", '"\U0001f600"', "[{}]"]),
)
lone_numbers = st.builds('{{"a": {}}}'.format, edges | numbers)
objects = st.one_of(
    st.lists(st.tuples(keys, values | nested), max_size=6).map(object_), long_objects, lone_numbers, values
)


# Times and ids

times = st.builds(
    '"{}{}{}{}{}"'.format,
    st.one_of(
        st.dates().map(str),
        st.sampled_from(["0001-01-01", "0001-01-02", "9999-12-30", "9999-12-31"]),
        st.sampled_from(["1582-10-10", "1969-12-31", "2000-02-29", "2016-12-31", "2023-02-29"]),
    ),
    st.sampled_from(["T", "t", " "]),
    st.sampled_from(["00:00:00", "12:30:15", "23:59:59", "23:59:60", "24:00:00"]),
    st.sampled_from(["", ".1", ".123456789", ".9999994", ".9999995", ".0000005", ".0000015", ".999999999"]),
    st.sampled_from(["", "Z", "z", "+00:00", "-00:00", "+14:00", "-12:00", "+23:59", "-23:59", "+24:00"]),
)
ids = st.sampled_from(['"ID1"', '"ID1"', '"ID2"', '"{ID1}"', '"urn:uuid:ID1"', '"ID1 "'])
sessions = st.sampled_from(
    [f'"{NAMESPACE}"', f'"{NAMESPACE.hex}"', f'"{NAMESPACE}"'.upper(), '"{ID1}"', '"ID1"']
)
outcomes = st.sampled_from(['"SUCCESS"', '"failure"', '"Pending"', '"\u017fuccess"', '""'])
pnls = decimal(8, "-0", "999999999999.999999994", "999999999999.999999995", "1e12", "1e-400", "12e2", "1e400")

DECISION_FIELDS: dict[str, SearchStrategy[str]] = {
    "agent_name": text(100),
    "decision_type": text(50),
    "symbol": text(20),
    "prompt": text(3000, 0),
    "response": text(3000, 0) | st.just(r'"{\"side\": \"\ud83d\ude00\"}"'),
    "model": text(100),
    "id": ids,
    "session_id": sessions,
    "timestamp": times,
    "confidence": decimal(4, "0", "1", "1.0", "0.99995", "1.00001", "1e-5", "5e-5"),
    "tokens_used": wholes,
    "latency_ms": wholes,
    "cost_usd": decimal(6, "0", "99999999.9999994", "99999999.9999995", "100000000", "1.5e-6"),
    "action": text(20),
    "context": objects,
    "prompt_embedding": embeddings,
    "embedding_model": text(100, 0),
    "outcome": outcomes,
    "pnl": pnls,
    "experiment": text(100, 0),
    "variant": text(100, 0),
    "propensity": decimal(10, "1", "1e-10", "0.00000000005", "0.00000000015", "1e-11", "0"),
    "": values,
    "desk": values | nested | long_objects | lone_numbers,
}
OUTCOME_FIELDS: dict[str, SearchStrategy[str]] = {
    "decision_id": ids,
    "outcome": outcomes,
    "pnl": pnls,
    "timestamp": times,
    "source": text(3000, 0),
    "note": text(3000, 0),
    "desk": values | nested | long_objects | lone_numbers,
}
DECISION: Final = {key: json.dumps(value) for key, value in decision(id="ID1").items()}
OUTCOME: Final = {"decision_id": '"ID1"', "outcome": '"SUCCESS"'}


def payload(plain: Members, fields: dict[str, SearchStrategy[str]]) -> SearchStrategy[Members]:
    """A plain payload with a few fields at their limits: with many, one of them would mostly be refused."""
    chosen = st.lists(st.sampled_from(sorted(fields)), min_size=1, max_size=4, unique=True)
    return chosen.flatmap(
        lambda names: st.fixed_dictionaries({name: fields[name] for name in names}).map(plain.__or__)
    )


# What NATS carries in headers is not all Unicode text.
odd = st.text(st.characters() | st.sampled_from("\0\ud800\udfff"), max_size=8)
headers = st.none() | st.dictionaries(odd, odd, max_size=3)
payloads = st.one_of(
    *[payload(DECISION, DECISION_FIELDS)] * 3,
    payload(DECISION, {"context": lone_numbers, "desk": lone_numbers}),
    payload(OUTCOME, OUTCOME_FIELDS),
)


def deliveries(count: int) -> list[Delivery]:
    """So many generated payloads as the consumer hands them on: the same in every run, on any machine."""
    made: list[Delivery] = []

    # The database is asked later, in batches: here nothing can fail, and so nothing is to be shrunk.
    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(payloads, headers)
    def make(members: Members, headers: dict[str, str] | None) -> None:
        own = str(uuid5(NAMESPACE, str(len(made))))
        pairs = (f"{json.dumps(key)}: {value}" for key, value in members.items())
        written = f"{{{', '.join(pairs)}}}".replace("ID1", own).replace("ID2", own.upper()).encode()
        subject = "llm.decisions" if "prompt" in members else "llm.outcomes"
        one = message(written, subject=subject)
        one.headers = headers
        made.append(delivery(one))

    make()
    return made


async def test_what_the_decoder_accepts_the_tables_take_and_give_back(
    store: Store, sql: asyncpg.Connection
) -> None:
    """What it refuses is a dead letter with the decoder's reason; a second delivery changes nothing."""
    made = deliveries(EXAMPLES)
    accepted = [item for item in made if not isinstance(item.record, InvalidPayload)]
    assert EXAMPLES / 4 < len(accepted) < EXAMPLES * 0.9, "the payloads keep to one side of the limits"
    results = await write(store, made)
    letters = {row["id"]: row for row in await sql.fetch("SELECT * FROM llm_dead_letters")}
    wrong = [
        (len(item.message.payload), item.message.payload, letters.get(item.message.identity))
        for item, result in zip(made, results, strict=True)
        if result != ("dead_letter" if isinstance(item.record, InvalidPayload) else "stored")
    ]
    assert not wrong, f"{len(wrong)} accepted payloads were not stored, the shortest is {min(wrong)[1:]}"
    await check_decisions(sql, [item for item in accepted if isinstance(item.record, Decision)])
    await check_outcomes(sql, [item for item in accepted if isinstance(item.record, Outcome)])
    for item in made:
        if isinstance(item.record, InvalidPayload):
            letter = letters[item.message.identity]
            assert (letter["reason"], letter["payload"]) == (item.record.reason, item.message.payload)
    assert set(await write(store, made)) == {"duplicate"}


async def write(store: Store, made: list[Delivery]) -> list[Result]:
    return [
        result
        for start in range(0, len(made), BATCH_ROWS)
        for result in await store.write(made[start : start + BATCH_ROWS])
    ]


async def check_decisions(sql: asyncpg.Connection, made: list[Delivery]) -> None:
    """Every column is what was decoded, to the last digit."""
    rows = {
        row["id"]: row
        for row in await sql.fetch("SELECT *, prompt_embedding::real[] AS numbers FROM llm_decisions")
    }
    ledger = {row["event_id"]: row for row in await sql.fetch("SELECT * FROM llm_outcomes")}
    assert len(rows) == len(made)
    for item in made:
        record = item.record
        assert isinstance(record, Decision)
        row = rows[record.id]
        for name in AS_IT_IS:
            assert row[name] == getattr(record, name), (name, item.message.payload)
        embedding = record.prompt_embedding
        assert row["numbers"] == (embedding and embedding.to_list())
        check_json(row, item, DECISION_FIELDS)
        first = record.first_outcome
        assert (first is None) == (record.id not in ledger)
        if first is not None:
            event = ledger[record.id]
            assert (event["outcome"], event["pnl"]) == (first.outcome, first.pnl)
            assert (row["outcome"], row["pnl"]) == (first.outcome, first.pnl)


async def check_outcomes(sql: asyncpg.Connection, made: list[Delivery]) -> None:
    """Every event of the ledger is what was decoded."""
    rows = {row["event_id"]: row for row in await sql.fetch("SELECT * FROM llm_outcomes")}
    for item in made:
        record = item.record
        assert isinstance(record, Outcome)
        row = rows[record.event_id]
        for name in set(Outcome.__struct_fields__) - {"extra"}:
            assert row[name] == getattr(record, name), (name, item.message.payload)
        check_json(row, item, OUTCOME_FIELDS)


def check_json(row: asyncpg.Record, item: Delivery, fields: dict[str, SearchStrategy[str]]) -> None:
    """`context` and `extra` hold the payload's own values: its digits, and of a duplicate key the last."""
    given_: dict[str, Any] = exact(item.message.payload)
    if "context" in row:
        assert exact(row["context"] or "null") == given_.get("context"), item.message.payload
    unknown = {key: value for key, value in given_.items() if key not in fields or key in {"", "desk"}}
    assert exact(row["extra"] or "{}") == unknown, item.message.payload


def exact(text: str | bytes) -> Any:
    """JSON with every number as a decimal."""
    return json.loads(text, parse_int=Decimal, parse_float=Decimal)
