"""Dead letters as operators handle them: found, read, stored after all, or thrown away."""

from __future__ import annotations

import gc
import weakref
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import asyncpg
import msgspec
import pytest

from tests.factory import CONTRACT, decision, deliver, delivery, message, outcome
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Delivery, Message, decode
from tracker_daemon.postgres import Rejected
from tracker_daemon.store.dead_letters import (
    REPLAY_ROWS,
    Filter,
    Replayed,
    list_letters,
    purge,
    read_letter,
    replay,
)

if TYPE_CHECKING:
    from tracker_daemon.messages import Contract
    from tracker_daemon.store import Store

SOME_DAY = datetime(2026, 11, 22, tzinfo=UTC)


def refused(message: Message, contract: Contract) -> Delivery:
    """The message as a daemon with other settings handed it on."""
    with pytest.raises(InvalidPayload) as caught:
        decode(message, contract)
    return Delivery(message, caught.value, None)


def settings_then(**changes: Any) -> Contract:
    return msgspec.structs.replace(CONTRACT, **changes)


async def replayed(
    sql: asyncpg.Connection, wanted: Filter | None = None, contract: Contract = CONTRACT
) -> list[Replayed]:
    return [letter async for letter in replay(sql, wanted or Filter(), contract)]


async def letters(sql: asyncpg.Connection) -> list[asyncpg.Record]:
    return await sql.fetch("SELECT * FROM llm_dead_letters ORDER BY id")


async def letter_ids(sql: asyncpg.Connection) -> list[UUID]:
    """Of the letters in the order of the stream."""
    rows = await sql.fetch("SELECT id FROM llm_dead_letters ORDER BY stream_sequence")
    return [row["id"] for row in rows]


# Finding, reading, throwing away.


@pytest.fixture
async def three(store: Store, sql: asyncpg.Connection) -> list[UUID]:
    """Three letters of three days, the second replayed already; their ids, oldest first."""
    bad = [message(b"not json"), message({"outcome": "SUCCESS"}), message(b"[]")]
    assert await store.write([delivery(each) for each in bad]) == ["dead_letter"] * 3
    ids = await letter_ids(sql)
    for day, id_ in enumerate(ids):
        received_at = SOME_DAY + timedelta(days=day)
        await sql.execute("UPDATE llm_dead_letters SET received_at = $1 WHERE id = $2", received_at, id_)
    await sql.execute("UPDATE llm_dead_letters SET replayed_at = now() WHERE id = $1", ids[1])
    return ids


FILTERS: list[tuple[dict[str, Any], list[int]]] = [
    ({}, [0, 1, 2]),
    ({"reason": "invalid_json"}, [0]),
    ({"reason": "nothing"}, []),
    ({"subject": "llm.outcomes"}, [1]),
    ({"since": SOME_DAY + timedelta(days=1)}, [1, 2]),
    ({"before": SOME_DAY + timedelta(days=1)}, [0]),
    ({"since": SOME_DAY, "before": SOME_DAY + timedelta(days=2)}, [0, 1]),
    ({"replayed": True}, [1]),
    ({"replayed": False}, [0, 2]),
    ({"replayed": False, "subject": "llm.decisions", "reason": "not_an_object"}, [2]),
]


@pytest.mark.parametrize(("given", "expected"), FILTERS, ids=str)
async def test_a_filter_lists_what_it_means_newest_first_and_purges_no_more(
    sql: asyncpg.Connection, three: list[UUID], given: dict[str, Any], expected: list[int]
) -> None:
    wanted = [three[index] for index in expected]
    listed = await list_letters(sql, Filter(**given), limit=10)
    assert [row["id"] for row in listed] == wanted[::-1]
    assert await purge(sql, Filter(**given)) == len(wanted)
    assert await letter_ids(sql) == [id_ for id_ in three if id_ not in wanted]


async def test_ids_name_letters_and_no_ids_name_none(sql: asyncpg.Connection, three: list[UUID]) -> None:
    async def listed(ids: list[UUID]) -> list[UUID]:
        return [row["id"] for row in await list_letters(sql, Filter(ids=ids), limit=10)]

    assert await listed([three[0], three[2], uuid4()]) == [three[2], three[0]]
    assert await listed([]) == []
    assert await purge(sql, Filter(ids=[])) == 0
    assert await purge(sql, Filter(ids=three[:1])) == 1
    assert await letter_ids(sql) == three[1:]


async def test_a_list_says_what_is_wrong_and_how_large_it_is_but_shows_no_payload(
    sql: asyncpg.Connection, three: list[UUID]
) -> None:
    (newest,) = await list_letters(sql, Filter(), limit=1)
    assert newest["id"] == three[2]
    assert (newest["subject"], newest["reason"], newest["bytes"]) == ("llm.decisions", "not_an_object", 2)
    assert "payload" not in newest.keys()  # noqa: SIM118 - of a Record, `in` looks at the values


async def test_a_letter_is_read_whole(sql: asyncpg.Connection, store: Store) -> None:
    bad = Message(
        "llm.outcomes",
        b'{"outcome": "SUCCESS", "decision_id": 5}',
        stream="LLM",
        sequence=77,
        published_ns=1_795_000_000_123_456_789,
        headers={"Trace": "t"},
    )
    await store.write([delivery(bad)])
    letter = await read_letter(sql, bad.identity)
    assert letter is not None
    assert (letter["subject"], letter["stream"], letter["stream_sequence"]) == ("llm.outcomes", "LLM", 77)
    assert (letter["reason"], letter["field"]) == ("invalid_field", "decision_id")
    assert (letter["headers"], letter["payload"]) == ('{"Trace": "t"}', bad.payload)
    assert (letter["published_at"], letter["replayed_at"]) == (bad.published_at, None)
    assert await read_letter(sql, uuid4()) is None


# Replay.

WRONG_THEN: dict[str, dict[str, Any]] = {
    "wrong_dimension": {"embedding_dimensions": 4},
    "too_large": {"max_payload_bytes": 10},
    "unknown_subject": {"decisions_subject": "llm.other"},
}


@pytest.mark.parametrize("reason", WRONG_THEN)
async def test_what_only_the_settings_were_wrong_for_is_stored_as_if_they_had_been_right(
    store: Store, sql: asyncpg.Connection, reason: str
) -> None:
    sent = message(decision(prompt_embedding=[1, 2, 3]))
    await store.write([refused(sent, settings_then(**WRONG_THEN[reason]))])
    (letter,) = await letters(sql)
    assert letter["reason"] == reason
    assert await replayed(sql) == [Replayed(sent.identity, "stored")]
    (stored,) = await sql.fetch("SELECT * FROM llm_decisions")
    (marked,) = await letters(sql)
    assert marked["replayed_at"] is not None
    assert {**dict(marked), "replayed_at": None} == dict(letter)

    await sql.execute("DELETE FROM llm_decisions")
    assert await store.write([delivery(sent)]) == ["stored"]
    (row,) = await sql.fetch("SELECT * FROM llm_decisions")
    assert {**dict(row), "ingested_at": None} == {**dict(stored), "ingested_at": None}


async def test_a_replayed_outcome_is_projected(store: Store, sql: asyncpg.Connection) -> None:
    id_ = uuid4()
    event = message(outcome(id_, "FAILURE", pnl="-2.5"))
    await store.write(deliver(decision(id=str(id_))))
    await store.write([refused(event, settings_then(outcomes_subject="llm.other"))])
    assert await replayed(sql) == [Replayed(event.identity, "stored")]
    assert tuple(
        await sql.fetchrow("SELECT decision_id, event_id, stream_sequence FROM llm_outcomes") or ()
    ) == (
        id_,
        event.identity,
        event.sequence,
    )
    assert tuple(await sql.fetchrow("SELECT outcome, pnl::text FROM llm_decisions") or ()) == (
        "FAILURE",
        "-2.50000000",
    )


async def test_an_outcome_that_waited_is_projected_onto_a_replayed_decision(
    store: Store, sql: asyncpg.Connection
) -> None:
    sent = message(decision())
    await store.write([refused(sent, settings_then(max_payload_bytes=10)), *deliver(outcome(sent.identity))])
    await replayed(sql)
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"


async def test_a_second_replay_changes_nothing(store: Store, sql: asyncpg.Connection) -> None:
    then = settings_then(max_payload_bytes=10)
    sent = [message(decision()), message(decision(id=str(uuid4()))), message(outcome(uuid4()))]
    await store.write([refused(each, then) for each in sent])
    assert [letter.result for letter in await replayed(sql)] == ["stored"] * 3
    before = await everything(sql)
    assert [letter.result for letter in await replayed(sql)] == ["duplicate"] * 3
    assert await everything(sql) == before
    assert await replayed(sql, Filter(replayed=False)) == []


async def test_what_is_stored_already_is_marked(store: Store, sql: asyncpg.Connection) -> None:
    """The agent had published the decision again, in a way that was right."""
    id_ = str(uuid4())
    await store.write([refused(message(decision(id=id_)), settings_then(max_payload_bytes=10))])
    await store.write(deliver(decision(id=id_)))
    assert [letter.result for letter in await replayed(sql)] == ["duplicate"]
    assert [letter["replayed_at"] is None for letter in await letters(sql)] == [False]
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 1


async def test_what_is_still_wrong_stays_and_says_why(store: Store, sql: asyncpg.Connection) -> None:
    """For the reason of then, for another one, or because the database refuses; the good one is stored."""
    then = settings_then(max_payload_bytes=10)
    await sql.execute("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')")
    good, bad = message(decision()), message(decision(symbol="BAD"))
    sent = [message(b"not json"), message(b"not json, and too large"), bad, good]
    await store.write([delivery(sent[0]), *(refused(each, then) for each in sent[1:])])
    before = {letter["id"]: dict(letter) for letter in await letters(sql)}
    by_id = {letter.id: letter for letter in await replayed(sql)}
    assert by_id.pop(good.identity) == Replayed(good.identity, "stored")
    assert {id_: letter.result for id_, letter in by_id.items()} == dict.fromkeys(
        (each.identity for each in sent[:3]), "refused"
    )
    why = {id_: letter.refusal.reason for id_, letter in by_id.items() if letter.refusal}
    assert why == {
        sent[0].identity: "invalid_json",
        sent[1].identity: "invalid_json",
        bad.identity: "rejected_by_database",
    }
    after = {letter["id"]: dict(letter) for letter in await letters(sql)}
    assert after.pop(good.identity)["replayed_at"] is not None
    del before[good.identity]
    assert after == before


async def test_an_id_conflict_stays(store: Store, sql: asyncpg.Connection) -> None:
    id_ = str(uuid4())
    first, other = deliver(decision(id=id_, pnl=1), decision(id=id_, pnl=2))
    assert await store.write([first, other]) == ["stored", "dead_letter"]
    before = await everything(sql)
    (letter,) = await replayed(sql)
    assert (letter.id, letter.result) == (other.message.identity, "refused")
    assert letter.refusal is not None
    assert letter.refusal.reason == "id_conflict"
    assert await everything(sql) == before


async def test_many_letters_are_replayed_in_batches_that_commit_one_by_one(
    store: Store, dsn: str, sql: asyncpg.Connection
) -> None:
    then = settings_then(max_payload_bytes=10)
    sent = [message(decision()) for _ in range(2 * REPLAY_ROWS + 1)]
    await store.write([refused(each, then) for each in sent])
    connection = await asyncpg.connect(dsn)
    replaying = replay(connection, Filter(), CONTRACT)
    assert (await anext(replaying)).result == "stored"
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == REPLAY_ROWS
    marked = "SELECT count(*) FROM llm_dead_letters WHERE replayed_at IS NOT NULL"
    assert await sql.fetchval(marked) == REPLAY_ROWS
    assert [letter.result async for letter in replaying] == ["stored"] * 2 * REPLAY_ROWS
    await connection.close()
    assert await sql.fetchval(marked) == len(sent)
    stored = await sql.fetch("SELECT id FROM llm_decisions")
    assert {row["id"] for row in stored} == {each.identity for each in sent}


async def test_large_letters_are_replayed_a_few_at_a_time(
    store: Store, dsn: str, sql: asyncpg.Connection
) -> None:
    """Eight MiB is the bound of a batch: of three MiB each, two at a time."""
    then = settings_then(max_payload_bytes=10)
    await store.write([refused(message(decision(prompt="x" * (3 << 20))), then) for _ in range(3)])
    connection = await asyncpg.connect(dsn)
    replaying = replay(connection, Filter(), CONTRACT)
    await anext(replaying)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 2
    assert [letter.result async for letter in replaying] == ["stored"] * 2
    await connection.close()


async def test_row_and_mark_are_committed_together_or_not_at_all(
    store: Store, sql: asyncpg.Connection
) -> None:
    await store.write([refused(message(decision()), settings_then(max_payload_bytes=10))])
    await sql.execute("ALTER TABLE llm_dead_letters ADD CONSTRAINT unmarked CHECK (replayed_at IS NULL)")
    with pytest.raises(Rejected):
        await replayed(sql)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 0
    await sql.execute("ALTER TABLE llm_dead_letters DROP CONSTRAINT unmarked")
    assert [letter.result for letter in await replayed(sql)] == ["stored"]


async def test_nothing_to_replay_is_nothing_wrong(sql: asyncpg.Connection) -> None:
    assert await replayed(sql) == []


async def everything(sql: asyncpg.Connection) -> list[list[asyncpg.Record]]:
    tables = ("llm_decisions", "llm_outcomes", "llm_dead_letters")
    return [await sql.fetch(f"SELECT * FROM {table} ORDER BY 1, 2") for table in tables]


async def test_what_a_replay_has_refused_is_freed(store: Store, sql: asyncpg.Connection) -> None:
    """Letters that stay invalid: the collector sees no cycle that runs through a Delivery."""
    assert await store.write(deliver(b"bad", decision(symbol=None))) == ["dead_letter"] * 2
    letters = [letter async for letter in replay(sql, Filter(), CONTRACT)]
    refusals = [weakref.ref(letter.refusal) for letter in letters]
    del letters
    gc.collect()
    assert [refusal() for refusal in refusals] == [None, None]
