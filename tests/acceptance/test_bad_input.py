"""Bad messages among good ones: each becomes one dead letter, and takes no other message down."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

import msgspec
import orjson

from tests.acceptance.command import tracker
from tests.factory import decision, outcome

if TYPE_CHECKING:
    from typing import Any

    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

MAX_PAYLOAD_BYTES = 100_000
ID = str(uuid4())


class Flaw(NamedTuple):
    """A payload that breaks the contract, and what its dead letter must say."""

    payload: bytes
    reason: str
    field: str | None


def raw(payload: dict[str, Any], name: str, text: str) -> bytes:
    """A payload with the JSON text of one field as it stands."""
    return msgspec.json.encode(payload | {name: msgspec.Raw(text.encode())})


DECISIONS = {
    "a NUL in a text": Flaw(raw(decision(), "prompt", r'"a\u0000b"'), "nul_character", "prompt"),
    "a NUL deep in the context": Flaw(
        raw(decision(), "context", r'{"news": [{"title": "\u0000"}]}'),
        "nul_character",
        "context.news[0].title",
    ),
    "a NUL in a key that nobody knows": Flaw(
        raw(decision(), "extra", r'{"a\u0000": 1}'), "nul_character", "extra.a\ufffd"
    ),
    "a lone surrogate in a text": Flaw(
        raw(decision(), "response", r'"half \ud83d"'), "invalid_field", "response"
    ),
    "a lone surrogate in the context": Flaw(
        raw(decision(), "context", r'{"note": "\udc00"}'), "invalid_field", "context.note"
    ),
    "1e400 in a decimal": Flaw(raw(decision(), "confidence", "1e400"), "invalid_field", "confidence"),
    "1e400 in an integer": Flaw(raw(decision(), "tokens_used", "1e400"), "invalid_field", "tokens_used"),
    "1e400 in an embedding": Flaw(
        raw(decision(), "prompt_embedding", "[1, 1e400, 2]"), "invalid_field", "prompt_embedding[1]"
    ),
    "a float32 overflow in an embedding": Flaw(
        raw(decision(), "prompt_embedding", "[1, 2, 1e39]"), "invalid_field", "prompt_embedding[2]"
    ),
    "1e400 in the context": Flaw(raw(decision(), "context", '{"rsi": 1e400}'), "invalid_field", "context"),
    "a context of another kind": Flaw(raw(decision(), "context", "[1]"), "invalid_field", "context"),
    "deep nesting": Flaw(raw(decision(), "context", '{"a":' * 5000 + "1" + "}" * 5000), "invalid_json", None),
    "bad UTF-8": Flaw(
        msgspec.json.encode(decision()).replace(b"hold?", b"hold\xff\xfe"), "invalid_json", None
    ),
    "one byte more than allowed": Flaw(
        msgspec.json.encode(decision()).ljust(MAX_PAYLOAD_BYTES + 1), "too_large", None
    ),
    "a wrong dimension": Flaw(
        msgspec.json.encode(decision(prompt_embedding=[1, 2, 3, 4])), "wrong_dimension", "prompt_embedding"
    ),
    "nothing at all": Flaw(b"", "invalid_json", None),
    "no JSON": Flaw(b"BUY BTC now", "invalid_json", None),
    "JSON cut short": Flaw(msgspec.json.encode(decision())[:-1], "invalid_json", None),
    "an array": Flaw(b"[1, 2]", "not_an_object", None),
    "null": Flaw(b"null", "not_an_object", None),
    "a text": Flaw(b'"BUY"', "not_an_object", None),
    "a field missing": Flaw(msgspec.json.encode(decision(model=None)), "missing_field", "model"),
    "an id given twice": Flaw(msgspec.json.encode(decision(id=ID, symbol="ETH")), "id_conflict", "id"),
}
OUTCOMES = {
    "a NUL in a note": Flaw(raw(outcome(ID), "note", r'"\u0000"'), "nul_character", "note"),
    "1e400 as P&L": Flaw(raw(outcome(ID), "pnl", "1e400"), "invalid_field", "pnl"),
    "P&L of 13 digits": Flaw(raw(outcome(ID), "pnl", "1234567890123.5"), "invalid_field", "pnl"),
    "an unknown word": Flaw(msgspec.json.encode(outcome(ID, "MAYBE")), "invalid_field", "outcome"),
    "no decision": Flaw(b'{"outcome": "SUCCESS"}', "missing_field", "decision_id"),
    "no object": Flaw(b"42", "not_an_object", None),
}


async def test_each_bad_message_is_one_dead_letter_and_the_good_ones_are_stored(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    daemon = await (await run({**settings, "TRACKER_NATS_MAX_PAYLOAD_BYTES": str(MAX_PAYLOAD_BYTES)})).ready()
    messages = [(stream.decisions, msgspec.json.encode(decision(id=ID)), "")]
    for number, (subject, flaws) in enumerate(((stream.decisions, DECISIONS), (stream.outcomes, OUTCOMES))):
        for name, flaw in flaws.items():
            good = uuid4()
            messages += [
                (stream.decisions, msgspec.json.encode(decision(id=str(good), note=name)), ""),
                (subject, flaw.payload, name),
                (stream.outcomes, msgspec.json.encode(outcome(good, pnl=number)), ""),
            ]
    sequences = await stream.publish_all((subject, payload) for subject, payload, _ in messages)
    await stream.settled(len(messages))

    letters = {
        row["stream_sequence"]: (
            row["subject"],
            row["stream"],
            Flaw(row["payload"], row["reason"], row["field"]),
        )
        for row in await sql.fetch("SELECT * FROM llm_dead_letters")
    }
    flaws = DECISIONS | OUTCOMES
    assert letters == {
        sequence: (subject, stream.name, flaws[name])
        for sequence, (subject, _, name) in zip(sequences, messages, strict=True)
        if name
    }
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters") == len(flaws)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == len(flaws) + 1
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == len(flaws)

    metrics = await daemon.metrics()
    for subject, bad in ((stream.decisions, DECISIONS), (stream.outcomes, OUTCOMES)):
        metrics.assert_adds_up(subject)
        assert metrics("messages_settled_total", subject=subject, result="dead_letter") == len(bad)
        assert metrics("dead_letters_total", subject=subject) == len(bad)
    assert metrics("rows_committed_total", table="llm_dead_letters") == len(flaws)
    assert await daemon.stop() == 0


async def test_dead_letters_are_replayed_once_what_stood_in_their_way_is_gone(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """A limit was too low: raised, the messages are stored as if they came now, and only once."""
    limited = {**settings, "TRACKER_NATS_MAX_PAYLOAD_BYTES": "1000"}
    daemon = await (await run(limited)).ready()
    id_ = str(uuid4())
    [large, _, _, _] = await stream.publish(
        decision(id=id_, prompt="x" * 2000), decision(prompt="y" * 3000), decision(model=None), decision()
    )
    await stream.publish(outcome(id_, pnl=1), subject=stream.outcomes)
    await stream.settled(5)
    assert await daemon.stop() == 0
    letter = await sql.fetchval("SELECT id FROM llm_dead_letters WHERE stream_sequence = $1", large)

    refused = await tracker("dead-letters", "replay", str(letter), settings=limited)
    assert (refused.code, refused.err) == (1, "")
    assert "too_large" in refused.out
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters WHERE replayed_at IS NOT NULL") == 0

    accepted = await tracker("dead-letters", "replay", "--reason", "too_large", settings=settings)
    assert (accepted.code, accepted.err) == (0, "")
    assert "2 of 2 dead letters replayed" in accepted.out
    again = await tracker("dead-letters", "replay", str(letter), "--json", settings=settings)
    assert again.code == 0
    assert [(one["id"], one["result"]) for one in orjson.loads(again.out)] == [(str(letter), "duplicate")]

    everything = await tracker("dead-letters", "replay", "--all", settings=settings)
    assert everything.code == 1
    assert "missing_field at model" in everything.out
    assert "0 of 1 dead letters replayed" in everything.out

    rows = await sql.fetch("SELECT length(prompt), outcome FROM llm_decisions ORDER BY 1")
    assert [tuple(row) for row in rows] == [(18, None), (2000, "SUCCESS"), (3000, None)]
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters WHERE replayed_at IS NULL") == 1
