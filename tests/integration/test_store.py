"""The store against a real PostgreSQL: what is committed, what is refused, what a second delivery changes."""

from __future__ import annotations

import asyncio
import gc
import random
import weakref
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.chaos.proxy import Fate, PostgresProxy
from tests.conftest import has_nodes
from tests.factory import CONTRACT, decision, deliver, delivery, message, outcome
from tests.locks import blocked
from tests.texts import waiting
from tests.waiting import until, until_metric
from tracker_daemon import metrics, postgres
from tracker_daemon.errors import Unavailable
from tracker_daemon.messages import Message
from tracker_daemon.store import Drift, Poll, Store
from tracker_daemon.store.dead_letters import Filter, replay
from tracker_daemon.store.drift import OUTCOMES, QUIET
from tracker_daemon.store.store import CAREFUL_BATCHES
from tracker_daemon.store.transaction import Transaction

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import asyncpg

    from tracker_daemon.embedded import PostgresServer
    from tracker_daemon.messages import Delivery

COUNTED = "the sequence is not on the node where the trigger counts"
DEFERRED = "SET CONSTRAINTS, before the COMMIT, stays on the coordinator"


@pytest.fixture
async def rival(dsn: str) -> AsyncIterator[Store]:
    store = Store(dsn)
    yield store
    await store.close()


def poisoned(delivery: Delivery) -> Delivery:
    """A decision that the decoder would never let through: jsonb refuses U+0000."""
    return msgspec.structs.replace(
        delivery, record=msgspec.structs.replace(delivery.record, context='{"a": "\\u0000"}')
    )


async def test_every_field_is_stored_exactly(store: Store, sql: asyncpg.Connection) -> None:
    id_, session = uuid4(), uuid4()
    payload = decision(
        id=str(id_),
        session_id=str(session),
        timestamp="2026-11-22T10:00:00.123456789Z",
        confidence="0.12345",
        tokens_used=12,
        latency_ms=345,
        cost_usd=0.0000015,
        context={"rsi": 61.5, "deep": {"big": 123456789012345678901234567890}},
        prompt_embedding=[1, 2.5, -3],
        embedding_model="e5",
        experiment="x",
        variant="b",
        propensity=0.25,
        note_to_self={"kept": True},
    )
    assert await store.write(deliver(payload)) == ["stored"]
    row = await sql.fetchrow("SELECT *, prompt_embedding::text AS embedding FROM llm_decisions")
    assert row is not None
    assert (row["id"], row["session_id"]) == (id_, session)
    assert row["created_at"].isoformat() == "2026-11-22T10:00:00.123457+00:00"
    assert (row["confidence"], row["cost_usd"], row["propensity"]) == (
        Decimal("0.1234"),  # half-even
        Decimal("0.000002"),
        Decimal("0.2500000000"),
    )
    assert (row["tokens_used"], row["latency_ms"], row["embedding"]) == (12, 345, "[1,2.5,-3]")
    assert (row["action"], row["experiment"], row["variant"], row["embedding_model"]) == (
        "BUY",
        "x",
        "b",
        "e5",
    )
    assert row["context"] == '{"rsi": 61.5, "deep": {"big": 123456789012345678901234567890}}'
    assert row["extra"] == '{"note_to_self": {"kept": true}}'
    assert (row["outcome"], row["pnl"], row["outcome_at"]) == (None, None, None)
    assert await sql.fetchval("SELECT count(*) FROM trading_sessions WHERE id = $1", session) == 1


async def test_a_second_delivery_changes_nothing(store: Store, rival: Store, sql: asyncpg.Connection) -> None:
    id_ = uuid4()
    batch = deliver(decision(), decision(id=str(id_)), outcome(id_), b"not json")
    assert await store.write(batch) == ["stored", "stored", "stored", "dead_letter"]
    before = await _tables(sql)
    assert await rival.write(batch) == ["duplicate"] * 4
    assert await store.write(list(reversed(batch))) == ["duplicate"] * 4
    assert await _tables(sql) == before


async def test_a_message_twice_in_one_batch_is_one_row(store: Store, sql: asyncpg.Connection) -> None:
    id_ = uuid4()
    batch = deliver(decision(), decision(id=str(id_)), outcome(id_))
    assert await store.write(batch * 2) == ["stored"] * 3 + ["duplicate"] * 3
    assert [len(rows) for rows in await _tables(sql)] == [2, 1, 0]


async def test_a_decision_published_twice_is_a_duplicate_however_its_json_is_written(store: Store) -> None:
    id_ = str(uuid4())
    first, same = decision(id=id_, context={"a": 1, "b": 2}), decision(context={"b": 2, "a": 1}, id=id_)
    assert await store.write(deliver(first, dict(reversed(same.items())))) == ["stored", "duplicate"]
    assert await store.write(deliver(same)) == ["duplicate"]


@pytest.mark.parametrize("together", [True, False])
async def test_an_id_reused_with_other_content_is_a_dead_letter(
    store: Store, sql: asyncpg.Connection, together: bool
) -> None:
    id_ = str(uuid4())
    first, other = deliver(decision(id=id_, pnl="1.1"), decision(id=id_, pnl="1.2"))
    if together:
        assert await store.write([first, other]) == ["stored", "dead_letter"]
    else:
        assert await store.write([first]) == ["stored"]
        assert await store.write([other]) == ["dead_letter"]
    letter = await sql.fetchrow("SELECT reason, field, payload FROM llm_dead_letters")
    assert letter is not None
    assert tuple(letter) == ("id_conflict", "id", other.message.payload)
    assert await sql.fetchval("SELECT pnl FROM llm_decisions") == Decimal("1.1")


async def test_the_projection_is_the_latest_event_whatever_the_order(
    store: Store, sql: asyncpg.Connection
) -> None:
    id_ = uuid4()
    events = [
        outcome(id_, "SUCCESS", pnl="10", timestamp="2026-01-01T00:00:00Z"),
        outcome(id_, "FAILURE", pnl="-4.5", timestamp="2026-01-03T00:00:00Z"),
        outcome(id_, "PENDING", timestamp="2026-01-02T00:00:00Z"),
    ]
    batch = deliver(decision(id=str(id_)), *events)
    random.Random(7).shuffle(batch)  # noqa: S311 - repeatable, not secret
    for single in batch:
        assert await store.write([single]) == ["stored"]
    row = await sql.fetchrow("SELECT outcome, pnl, outcome_at FROM llm_decisions")
    assert row is not None
    assert (row["outcome"], row["pnl"], row["outcome_at"].day) == ("FAILURE", Decimal("-4.5"), 3)


async def test_a_later_event_without_pnl_reopens_the_decision(store: Store, sql: asyncpg.Connection) -> None:
    id_ = uuid4()
    await store.write(
        deliver(decision(id=str(id_), outcome="success", pnl=5, timestamp="2026-01-01T00:00:00Z"))
    )
    assert tuple(await sql.fetchrow("SELECT outcome, pnl FROM llm_decisions") or ()) == ("SUCCESS", 5)
    await store.write(deliver(outcome(id_, "PENDING", timestamp="2026-01-02T00:00:00Z")))
    assert tuple(await sql.fetchrow("SELECT outcome, pnl FROM llm_decisions") or ()) == ("PENDING", None)
    assert await sql.fetchval("SELECT count(*) FROM llm_outcomes") == 2


async def test_an_event_from_the_future_counts_from_the_streams_time(
    store: Store, sql: asyncpg.Connection
) -> None:
    id_ = uuid4()
    wrong_clock = outcome(id_, "FAILURE", timestamp="2999-01-01T00:00:00Z")
    assert (
        await store.write(deliver(decision(id=str(id_)), wrong_clock, outcome(id_, "SUCCESS")))
        == ["stored"] * 3
    )
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "SUCCESS"


async def test_of_equal_times_the_later_stream_sequence_wins(store: Store, sql: asyncpg.Connection) -> None:
    id_ = uuid4()
    late, early = (
        delivery(message(outcome(id_, word, timestamp="2026-01-01T00:00:00Z"), sequence=sequence))
        for word, sequence in (("FAILURE", 10**6 + 1), ("SUCCESS", 10**6))
    )
    await store.write([*deliver(decision(id=str(id_))), late])
    await store.write([early])
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "FAILURE"


async def test_a_racing_decision_and_outcome_are_projected(
    store: Store, rival: Store, sql: asyncpg.Connection
) -> None:
    """Both writers at once, neither seeing the other's rows while they write."""
    for _ in range(20):
        ids = [uuid4() for _ in range(20)]
        await asyncio.gather(
            store.write(deliver(*(decision(id=str(id_)) for id_ in ids))),
            rival.write(deliver(*(outcome(id_, pnl=1) for id_ in ids))),
        )
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == 400


@pytest.mark.parametrize(
    "positions", [[0], [4], [9], [0, 4, 9], [3, 4], list(range(10)), list(range(50))], ids=str
)
async def test_poison_takes_nothing_down_with_it(
    store: Store, sql: asyncpg.Connection, positions: list[int]
) -> None:
    batch = deliver(*(decision() for _ in range(max(10, len(positions)))))
    for position in positions:
        batch[position] = poisoned(batch[position])
    expected = ["dead_letter" if index in positions else "stored" for index in range(len(batch))]
    assert await store.write(batch) == expected
    letters = await sql.fetch(
        "SELECT reason, detail, stream_sequence FROM llm_dead_letters ORDER BY stream_sequence"
    )
    assert [letter["stream_sequence"] for letter in letters] == [
        batch[at].message.sequence for at in positions
    ]
    assert {letter["reason"] for letter in letters} == {"rejected_by_database"}
    assert all(letter["detail"].startswith("22P05") for letter in letters)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == len(batch) - len(positions)


async def test_poison_that_the_server_does_not_point_at_is_found_by_halving(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')")
    ids = [uuid4() for _ in range(20)]
    batch = deliver(
        *(decision(id=str(id_), symbol="BAD" if n % 7 == 3 else "BTC") for n, id_ in enumerate(ids))
    )
    batch += deliver(*(outcome(id_) for id_ in ids))
    results = await store.write(batch)
    assert [n for n, result in enumerate(results) if result == "dead_letter"] == [3, 10, 17]
    assert results.count("stored") == 37
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'SUCCESS'") == 17


async def test_when_even_the_dead_letter_is_refused_the_good_rows_commit(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_dead_letters ADD CHECK (payload <> 'worst')")
    assert await store.write(deliver(decision(), b"worst", b"bad", decision())) == [
        "stored",
        "released",
        "dead_letter",
        "stored",
    ]
    assert [len(rows) for rows in await _tables(sql)] == [2, 0, 1]


async def test_when_dead_letters_may_not_be_written_at_all_the_good_rows_commit(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_dead_letters RENAME TO gone")
    assert await store.write(deliver(decision(), b"bad")) == ["stored", "released"]


async def test_a_missing_column_pauses_and_resumes_unaided(store: Store, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE llm_decisions RENAME COLUMN variant TO gone")
    writing = asyncio.create_task(store.write(deliver(decision())))
    await until(lambda: store.paused)
    await sql.execute("ALTER TABLE llm_decisions RENAME COLUMN gone TO variant")
    assert await writing == ["stored"]
    assert not store.paused
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters") == 0


async def test_a_killed_connection_is_no_fault_of_the_messages(store: Store, sql: asyncpg.Connection) -> None:
    assert await store.write(deliver(decision())) == ["stored"]
    await sql.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE application_name = 'tracker-daemon' AND datname = current_database()"
    )
    assert await store.write(deliver(decision())) == ["stored"]
    assert [len(rows) for rows in await _tables(sql)] == [2, 0, 0]


async def test_a_write_cancelled_as_its_connection_is_cut_ends(store: Store, sql: asyncpg.Connection) -> None:
    """The transaction's end fails on the cut connection: that must not pass for an outage to wait out."""
    assert await store.write(deliver(decision())) == ["stored"]
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_decisions")
        writing = asyncio.create_task(store.write(deliver(decision())))
        await until(lambda: blocked(sql, 1))
        store.abort()
        writing.cancel()
        await asyncio.wait({writing}, timeout=20)
        assert writing.cancelled()


async def test_writing_works_without_the_statement_cache(dsn: str, sql: asyncpg.Connection) -> None:
    store = Store(dsn, statement_cache=False)
    id_ = uuid4()
    assert await store.write(deliver(decision(id=str(id_)), outcome(id_), b"")) == [
        "stored",
        "stored",
        "dead_letter",
    ]
    assert await store.write(deliver(decision(), outcome(id_, "FAILURE"))) == ["stored"] * 2
    await store.close()
    assert [len(rows) for rows in await _tables(sql)] == [2, 2, 1]


async def _tables(sql: asyncpg.Connection) -> list[list[Any]]:
    return [
        await sql.fetch(f"SELECT * FROM {table} ORDER BY 1, 2")
        for table in ("llm_decisions", "llm_outcomes", "llm_dead_letters")
    ]


async def test_a_connection_that_is_lost_while_it_is_opened_is_an_outage(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the middle of what it is taught first: the daemon tries again, at its start as later."""
    teach = postgres.register_vector

    async def teach_too_late(connection: asyncpg.Connection, *, schema: str) -> None:
        await sql.execute("SELECT pg_terminate_backend($1::int)", connection.get_server_pid())
        await teach(connection, schema=schema)

    store = Store(dsn)
    with monkeypatch.context() as patch:
        patch.setattr(postgres, "register_vector", teach_too_late)
        with pytest.raises(Unavailable):
            await store.open()
    await store.open()
    await store.close()


async def test_a_projection_that_is_refused_takes_nothing_down(
    store: Store, sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator's own rule on the projected columns, broken by one of three outcomes: it comes again."""
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (pnl < 1000)")
    ids = [uuid4() for _ in range(3)]
    batch = deliver(
        *(decision(id=str(id_), prompt="a secret prompt") for id_ in ids),
        *(outcome(id_, pnl=pnl) for id_, pnl in zip(ids, (1, 5000, 2), strict=True)),
    )
    assert await store.write(batch) == ["stored", "released", "stored", "stored", "released", "stored"]
    assert "SQLSTATE 23514 on llm_decisions, sane" in str(store.trouble)
    projected = await sql.fetch("SELECT pnl FROM llm_decisions ORDER BY pnl")
    assert [row["pnl"] for row in projected] == [1, 2, None]
    assert await sql.fetchval("SELECT count(*) FROM llm_outcomes") == 3
    printed = "".join(capsys.readouterr())
    assert "an outcome cannot be projected" in printed
    assert "a secret prompt" not in printed
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    assert await store.write(batch) == ["duplicate"] * 6
    assert await sql.fetchval("SELECT pnl FROM llm_decisions WHERE id = $1", ids[1]) == 5000


async def test_many_refused_projections_pause_writing_before_they_use_up_the_streams_patience(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    decided = deliver(*(decision(id=str(uuid4()), outcome="FAILURE") for _ in range(51)))
    writing = asyncio.create_task(store.write(decided))
    await until(lambda: store.paused)
    assert "refuses to show the outcome of 51 of the last 200 messages" in str(store.trouble)
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    assert await writing == ["stored"] * 51
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions WHERE outcome = 'FAILURE'") == 51


async def test_an_override_leaves_outcomes_that_may_not_be_shown_to_the_ledger(
    dsn: str, sql: asyncpg.Connection
) -> None:
    unshown = Drift(OUTCOMES)
    store = Store(dsn, None, unshown)
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    decided = deliver(*(decision(id=str(uuid4()), outcome="FAILURE") for _ in range(51)))
    writing = asyncio.create_task(store.write(decided))
    await until(lambda: store.paused)
    assert unshown.override()
    assert await writing == ["stored"] * 51
    assert await sql.fetchval("SELECT count(*) FROM llm_outcomes") == 51
    await store.close()


async def test_a_dead_letter_about_a_decision_that_may_not_be_shown_is_no_less_one(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    id_ = str(uuid4())
    batch = deliver(decision(id=id_), outcome(id_, "FAILURE"), decision(id=id_, prompt="another"))
    assert await store.write(batch) == ["released", "released", "dead_letter"]


async def test_a_replay_leaves_the_letter_of_an_outcome_that_may_not_be_shown(
    store: Store, sql: asyncpg.Connection
) -> None:
    id_ = uuid4()
    await sql.execute("ALTER TABLE llm_outcomes ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    assert await store.write(deliver(decision(id=str(id_)), outcome(id_, "FAILURE"))) == [
        "stored",
        "dead_letter",
    ]
    await sql.execute("ALTER TABLE llm_outcomes DROP CONSTRAINT sane")
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    (replayed,) = [letter async for letter in replay(sql, Filter(), CONTRACT)]
    assert replayed.result == "refused"
    assert "cannot be shown: SQLSTATE 23514" in str(replayed.refusal)
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    (replayed,) = [letter async for letter in replay(sql, Filter(), CONTRACT)]
    assert replayed.result == "duplicate"
    assert await sql.fetchval("SELECT outcome FROM llm_decisions") == "FAILURE"


def without_stream(payload: dict[str, Any] | bytes) -> Delivery:
    """A message of core NATS, which comes once."""
    given = message(payload)
    return delivery(
        Message(given.subject, given.payload, stream=None, sequence=None, published_ns=given.published_ns)
    )


async def test_without_a_stream_a_row_refused_for_an_unknown_reason_becomes_a_dead_letter(
    store: Store, sql: asyncpg.Connection
) -> None:
    await add_rule(sql, refuse("P0001"))
    assert await store.write([without_stream(decision(symbol="BAD"))]) == ["dead_letter"]
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (outcome <> 'FAILURE')")
    assert await store.write([without_stream(decision(outcome="FAILURE"))]) == ["stored"]


async def test_without_a_stream_nothing_is_let_go_while_no_dead_letter_can_be_written(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_dead_letters RENAME TO gone")
    writing = asyncio.create_task(store.write([without_stream(b"bad")]))
    await until(lambda: store.paused)
    await sql.execute("ALTER TABLE gone RENAME TO llm_dead_letters")
    assert await writing == ["dead_letter"]


async def test_dead_letters_that_cannot_be_stored_are_a_trouble_past_the_ack_wait(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Good batches in between do not hide it: the message comes again after its ack wait, and so on."""
    await sql.execute("ALTER TABLE llm_dead_letters RENAME TO gone")
    assert await store.write(deliver(b"bad")) == ["released"]
    await sql.execute("ALTER TABLE gone RENAME TO llm_dead_letters")
    assert await store.write(deliver(b"bad", decision())) == ["dead_letter", "stored"]
    assert store.trouble is not None
    assert "dead letters cannot be stored" in store.trouble
    monkeypatch.setattr("tracker_daemon.store.store.TROUBLE_SECONDS", 0)
    assert store.trouble is None


# What no SQLSTATE explains.


@pytest.mark.not_on_citus("no unique index without the id")
async def test_a_row_refused_for_an_unknown_reason_is_left_to_the_stream(
    store: Store, sql: asyncpg.Connection, capsys: pytest.CaptureFixture[str]
) -> None:
    """An operator's unique index, whose DETAIL quotes the row: no row, no letter, all others as ever."""
    await sql.execute("CREATE UNIQUE INDEX mine ON llm_decisions (md5(prompt))")
    secret = "a secret prompt"
    batch = deliver(decision(prompt=secret), b"bad", decision(prompt=secret, symbol="ETH"), decision())
    batch.append(poisoned(deliver(decision(prompt="poison"))[0]))
    assert await store.write(batch) == ["stored", "dead_letter", "released", "stored", "dead_letter"]
    assert [len(rows) for rows in await _tables(sql)] == [2, 0, 2]
    assert await store.write(deliver(decision(prompt="good"))) == ["stored"]
    assert store.trouble is not None
    assert "23505 on llm_decisions, mine" in store.trouble
    assert not store.paused
    await sql.execute("DROP INDEX mine")
    assert await store.write(batch) == ["duplicate", "duplicate", "stored", "duplicate", "duplicate"]
    assert secret not in "".join(capsys.readouterr())


FUNCTION = "CREATE FUNCTION rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN {body} RETURN NEW; END $$"
TRIGGER = "CREATE {kind} rule {when} INSERT ON {table} {timing} FOR EACH ROW EXECUTE FUNCTION rule()"


async def add_rule(
    sql: asyncpg.Connection, body: str, *, table: str = "llm_decisions", deferred: bool = False
) -> None:
    """Put a trigger on a table; `calls` is a sequence that no rollback turns back."""
    kind, when, timing = ("TRIGGER", "BEFORE", "")
    if deferred:
        kind, when, timing = ("CONSTRAINT TRIGGER", "AFTER", "DEFERRABLE INITIALLY DEFERRED")
    await sql.execute("CREATE SEQUENCE calls")
    await sql.execute(FUNCTION.format(body=body))
    await sql.execute(TRIGGER.format(table=table, kind=kind, when=when, timing=timing))


def refuse(sqlstate: str, condition: str = "NEW.symbol = 'BAD'") -> str:
    return f"IF {condition} THEN RAISE EXCEPTION 'refused' USING ERRCODE = '{sqlstate}'; END IF;"


@pytest.mark.parametrize(
    ("sqlstate", "result"), [("P0001", "released"), ("XX000", "released"), ("23514", "dead_letter")]
)
@pytest.mark.parametrize(
    "deferred",
    [False, pytest.param(True, marks=pytest.mark.not_on_citus(DEFERRED))],
)
async def test_a_trigger_that_refuses_a_row_takes_no_other_down(
    store: Store, sql: asyncpg.Connection, sqlstate: str, result: str, deferred: bool
) -> None:
    """Also one that would speak up only at the COMMIT of the whole batch."""
    await add_rule(sql, refuse(sqlstate), deferred=deferred)
    batch = deliver(decision(), decision(symbol="BAD"), decision())
    assert await store.write(batch) == ["stored", result, "stored"]
    assert [len(rows) for rows in await _tables(sql)] == [2, 0, 1 if result == "dead_letter" else 0]


async def test_many_rows_refused_for_an_unknown_reason_pause_writing(
    store: Store, sql: asyncpg.Connection
) -> None:
    await add_rule(sql, refuse("P0001", "true"))
    assert await store.write(deliver(*[decision()] * 50)) == ["released"] * 50
    writing = asyncio.create_task(store.write(deliver(decision())))
    await until(lambda: store.paused)
    await sql.execute("DROP FUNCTION rule CASCADE")
    assert await writing == ["stored"]
    assert [len(rows) for rows in await _tables(sql)] == [1, 0, 0]


async def test_a_replay_leaves_the_letter_of_a_row_refused_for_an_unknown_reason(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (symbol <> 'BAD')")
    assert await store.write(deliver(decision(symbol="BAD"))) == ["dead_letter"]
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    await add_rule(sql, refuse("P0001"))
    (replayed,) = [letter async for letter in replay(sql, Filter(), CONTRACT)]
    assert (replayed.result, str(replayed.refusal)) == ("refused", "rejected_by_database: P0001: refused")
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters WHERE replayed_at IS NULL") == 1


async def test_one_row_that_comes_again_and_again_is_no_drift(store: Store, sql: asyncpg.Connection) -> None:
    await add_rule(sql, refuse("P0001"))
    bad = deliver(decision(symbol="BAD"))
    for _ in range(60):
        assert await store.write(bad) == ["released"]
    assert await store.write(deliver(decision())) == ["stored"]


async def test_a_missing_key_is_the_schemas_fault_and_no_messages(
    store: Store, sql: asyncpg.Connection
) -> None:
    """42P10, which ON CONFLICT meets without the key that it names."""
    await sql.execute("ALTER TABLE llm_outcomes DROP CONSTRAINT llm_outcomes_pkey")
    writing = asyncio.create_task(store.write(deliver(outcome(uuid4()))))
    await until(lambda: store.paused)
    await sql.execute("ALTER TABLE llm_outcomes ADD PRIMARY KEY (decision_id, event_id)")
    assert await writing == ["stored"]
    assert store.trouble is None


@pytest.mark.not_on_citus(COUNTED)
@pytest.mark.parametrize("sqlstate", ["40001", "40P01", "25P02", "58030"])
async def test_what_may_pass_by_itself_is_tried_again(
    store: Store, sql: asyncpg.Connection, sqlstate: str
) -> None:
    await add_rule(sql, refuse(sqlstate, "nextval('calls') <= 2"))
    assert await store.write(deliver(decision())) == ["stored"]
    assert await sql.fetchval("SELECT last_value FROM calls") == 3
    assert (store.trouble, store.paused) == (None, False)


# Drift.


async def test_rejections_message_by_message_pause_writing_until_the_schema_is_right(
    store: Store, sql: asyncpg.Connection
) -> None:
    """Up to a quarter of the window become dead letters, the next waits; what the decoder refuses is none."""
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (symbol <> 'BAD')")
    for bad in deliver(*[decision(symbol="BAD")] * 50):
        assert await store.write([bad]) == ["dead_letter"]
    assert await store.write(deliver(*[b"bad"] * 200)) == ["dead_letter"] * 200
    writing = asyncio.create_task(store.write(deliver(decision(symbol="BAD"))))
    await until(lambda: store.paused)
    assert store.trouble is not None
    assert "rejects 51 of the last 200 messages" in store.trouble
    assert "SQLSTATE 23514 on llm_decisions, sane" in store.trouble
    await sql.execute("ALTER TABLE llm_decisions DROP CONSTRAINT sane")
    assert await writing == ["stored"]
    assert (store.trouble, store.paused) == (None, False)
    assert [len(rows) for rows in await _tables(sql)] == [1, 0, 250]


async def test_what_the_decoder_refuses_and_a_reused_id_are_no_drift(store: Store) -> None:
    id_ = str(uuid4())
    conflicts = deliver(*(decision(id=id_, latency_ms=n) for n in range(100)))
    assert await store.write(conflicts) == ["stored", *["dead_letter"] * 99]
    assert await store.write(deliver(*[b"bad"] * 300)) == ["dead_letter"] * 300
    assert await store.write([poisoned(deliver(decision())[0]), *deliver(decision())]) == [
        "dead_letter",
        "stored",
    ]


NARROWED = {
    "by the server": ("prompt TYPE varchar(5)", decision(prompt="too long"), "column prompt", "text"),
    "by the driver": ("latency_ms TYPE int2", decision(latency_ms=70_000), "22000", "int4"),
    "as another type": ("prompt TYPE int USING 1", decision(), "another type", "text"),
}


@pytest.mark.parametrize("how", NARROWED)
async def test_a_column_that_no_longer_holds_the_values_pauses_before_anything_is_written(
    store: Store, sql: asyncpg.Connection, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch of which more than a quarter is refused: by COPY, or by the encoder for the type of today.

    The column gets its old type between two attempts: in the middle of one, what was refused so far would be
    dead letters.
    """
    permits, commit = asyncio.Semaphore(1), Transaction.commit

    async def permitted(transaction: Transaction) -> Transaction:
        await permits.acquire()
        return await commit(transaction)

    monkeypatch.setattr(Transaction, "commit", permitted)
    change, bad, said, back = NARROWED[how]
    column = change.partition(" ")[0]
    await sql.execute("DROP VIEW llm_monitoring")
    await sql.execute(f"ALTER TABLE llm_decisions ALTER {change}")
    batch = deliver(*[bad] * 60, decision(prompt="ok"))
    writing = asyncio.create_task(store.write(batch))
    await until(lambda: store.paused and said.removeprefix("column ") in str(store.trouble))
    assert [len(rows) for rows in await _tables(sql)] == [0, 0, 0]
    await sql.execute(f"ALTER TABLE llm_decisions ALTER {column} TYPE {back}")
    monkeypatch.undo()
    permits.release()
    assert await writing == ["stored"] * 61
    assert [len(rows) for rows in await _tables(sql)] == [61, 0, 0]


async def test_writers_that_share_a_drift_are_stopped_by_each_others_rejections_and_by_one_signal_let_through(
    dsn: str, sql: asyncpg.Connection
) -> None:
    drift = Drift()
    stores = [Store(dsn, drift) for _ in range(2)]
    await sql.execute("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')")
    bad = deliver(*[decision(symbol="BAD")] * 90)
    assert await stores[0].write(bad[:50]) == ["dead_letter"] * 50
    writing = [
        asyncio.create_task(store.write(part))
        for store, part in zip(stores, (bad[50:70], bad[70:]), strict=True)
    ]
    await until(lambda: all(store.paused for store in stores))
    drift.override()
    assert await asyncio.gather(*writing) == [["dead_letter"] * 20] * 2
    assert await stores[1].write(deliver(*[decision()] * QUIET)) == ["stored"] * QUIET
    assert not drift.overridden
    for store in stores:
        await store.close()


async def test_an_operator_may_turn_rows_refused_for_an_unknown_reason_into_dead_letters(
    dsn: str, sql: asyncpg.Connection
) -> None:
    drift = Drift()
    store = Store(dsn, drift)
    await add_rule(sql, refuse("P0001", "true"))
    writing = asyncio.create_task(store.write(deliver(*[decision()] * 51)))
    await until(lambda: store.paused)
    drift.override()
    assert await writing == ["dead_letter"] * 51
    await store.close()


# 08P01: of a row, or of PgBouncer.


async def test_a_row_that_the_server_cannot_read_is_found_and_takes_no_other_down(
    store: Store, sql: asyncpg.Connection
) -> None:
    await add_rule(sql, refuse("08P01"))
    id_ = uuid4()
    batch = deliver(b"bad", *[decision()] * 2, decision(symbol="BAD"), decision(id=str(id_)), outcome(id_))
    results = ["dead_letter", "stored", "stored", "dead_letter", "stored", "stored"]
    assert await store.write(batch) == results
    assert [letter["detail"] for letter in (await _tables(sql))[2] if letter["detail"].startswith("08")] == [
        "08P01: refused"
    ]
    assert await sql.fetchval("SELECT outcome FROM llm_decisions WHERE id = $1", id_) == "SUCCESS"
    assert (store.trouble, store.paused) == (None, False)


@pytest.mark.not_on_citus(COUNTED)
async def test_08p01_that_passes_blames_nobody(store: Store, sql: asyncpg.Connection) -> None:
    """Three times on fresh connections would be a row's: another error in between starts the count anew."""
    states = ["08P01"] * 3 + ["53000"] + ["08P01"] * 3
    await add_rule(
        sql,
        f"DECLARE states text[] := '{{{','.join(states)}}}'; call int := nextval('calls');"
        "BEGIN IF call <= array_length(states, 1) THEN"
        " RAISE EXCEPTION 'pooler' USING ERRCODE = states[call]; END IF; END;",
    )
    assert await store.write(deliver(decision())) == ["stored"]
    assert await sql.fetchval("SELECT last_value FROM calls") == len(states) + 1
    assert [len(rows) for rows in await _tables(sql)] == [1, 0, 0]


async def test_rows_that_the_server_cannot_read_are_drift_when_they_are_many(
    store: Store, sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE llm_decisions ADD CONSTRAINT sane CHECK (symbol <> 'BAD')")
    assert await store.write(deliver(*[decision(symbol="BAD")] * 50)) == ["dead_letter"] * 50
    await add_rule(sql, refuse("08P01", "true"))
    writing = asyncio.create_task(store.write(deliver(decision())))
    await until(lambda: store.paused)
    await sql.execute("DROP FUNCTION rule CASCADE")
    assert await writing == ["stored"]


async def test_a_dead_letter_that_the_server_cannot_read_is_left_to_the_stream(
    store: Store, sql: asyncpg.Connection
) -> None:
    await add_rule(sql, refuse("08P01", "NEW.payload = 'worst'"), table="llm_dead_letters")
    assert await store.write(deliver(b"worst", b"bad")) == ["released", "dead_letter"]
    assert store.trouble is not None
    assert "a dead letter cannot be stored: SQLSTATE 08P01" in store.trouble


async def test_a_count_that_fails_is_no_outage(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER TABLE llm_outcomes RENAME TO gone")
    poll = Poll(dsn)
    with capture_logs() as lines:
        polling = asyncio.create_task(poll.run())
        await until(lambda: any("cannot count" in line["event"] for line in lines))
        assert poll.trouble is None
        await until_metric("tracker_postgres_up", 1)
    polling.cancel()
    await asyncio.wait({polling})


async def test_what_a_frozen_writer_holds_is_given_up_and_written_by_another(
    dsn: str, store: Store, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rows are copied and locked, its COMMIT is never sent, and its connection stays open."""
    monkeypatch.setattr("tracker_daemon.store.transaction.IDLE_SECONDS", 1)
    deliveries = deliver(decision(), decision())
    copied, thawed = asyncio.Event(), asyncio.Event()

    async def freeze() -> Fate:
        copied.set()
        await thawed.wait()
        return Fate.PASS

    async with PostgresProxy(lambda: postgres_server.port) as proxy:
        frozen = Store(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        gone = proxy.arm("before-commit", freeze)
        writing = asyncio.create_task(frozen.write(deliveries))
        await copied.wait()
        assert await store.write(deliveries) == ["stored", "stored"]
        thawed.set()
        await gone
        assert await writing == ["duplicate", "duplicate"]
        await frozen.close()


@pytest.mark.parametrize(
    ("moment", "result"),
    [(None, "stored"), ("mid-copy", "stored"), ("before-commit", "stored"), ("after-commit", "duplicate")],
)
async def test_a_connection_that_has_gone_silent_is_given_up_at_whatever_moment(
    moment: str | None,
    result: str,
    dsn: str,
    postgres_server: PostgresServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its batch is written over another one, while the server still waits for the rest of it."""
    monkeypatch.setattr("tracker_daemon.postgres.COMMAND_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr("tracker_daemon.store.transaction.IDLE_SECONDS", 1)
    async with PostgresProxy(lambda: postgres_server.port) as proxy:

        async def strand() -> Fate:
            proxy.strand()
            return Fate.PASS

        store = Store(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        assert await store.write(deliver(decision())) == ["stored"]
        if moment is None:
            proxy.strand()
        else:
            stranded = proxy.arm(moment, strand)
        assert await store.write(deliver(decision())) == [result]
        if moment is not None:
            await stranded
        await store.close()


@pytest.mark.parametrize(("how", "seconds"), [("silent", 1), ("reset", 3600)])
async def test_a_copy_that_the_socket_takes_no_more_of_is_given_up(
    how: str, seconds: float, dsn: str, postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch larger than all buffers on the way: at its time limit, or once the connection has ended."""
    monkeypatch.setattr("tracker_daemon.postgres.COMMAND_TIMEOUT_SECONDS", seconds)
    async with PostgresProxy(lambda: postgres_server.port) as proxy:

        async def hold() -> Fate:
            proxy.hold()
            return Fate.PASS

        store = Store(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        assert await store.write(deliver(decision())) == ["stored"]
        held = proxy.arm("mid-copy", hold)
        large = deliver(*[decision(prompt="x" * 1_000_000)] * 30)
        writing = asyncio.create_task(store.write(large))
        await held
        assert store._connection is not None
        transport = store._connection._transport
        await until(lambda: transport.get_write_buffer_size() > 0)
        if how == "reset":
            proxy.reset()
        await until(lambda: store.trouble)
        proxy.release()
        assert await writing == ["stored"] * 30
        await store.close()


# Straight into the tables, or by way of a temporary one.


INCOMING = """
SELECT count(*) FROM pg_class
WHERE relpersistence = 't' AND relname SIMILAR TO 'incoming_llm_(decisions|outcomes)%'
"""


async def went_straight(store: Store, sql: asyncpg.Connection) -> bool:
    """Whether its session has made no temporary table; the session is ended, and with it such a table."""
    straight = not await sql.fetchval(INCOMING)
    await store.close()

    async def gone() -> bool:
        return not await sql.fetchval(INCOMING)

    await until(gone)
    return straight


def committed() -> list[float]:
    """Rows of decisions, of the ledger and of dead letters, as the metric has counted them."""
    return [
        metrics.registry.get_sample_value("tracker_rows_committed_total", {"table": table}) or 0
        for table in ("llm_decisions", "llm_outcomes", "llm_dead_letters")
    ]


def retries() -> float:
    """Writes tried again because a server or the connection to it was in the way."""
    return metrics.registry.get_sample_value("tracker_writer_retries_total", {"kind": "unavailable"}) or 0


async def careful(store: Store) -> None:
    """Have the next batches go by way of the temporary table, as after any that had a duplicate."""
    again = deliver(decision())
    assert await store.write(again * 2) == ["stored", "duplicate"]


@pytest.mark.parametrize("statement_cache", [True, False])
async def test_what_is_new_and_good_is_copied_straight(
    dsn: str, sql: asyncpg.Connection, statement_cache: bool
) -> None:
    """Decisions with and without an outcome, outcomes, and payloads that are none; also behind a pooler."""
    store = Store(dsn, statement_cache=statement_cache)
    id_, session, before = uuid4(), uuid4(), committed()
    batch = deliver(
        outcome(id_, "FAILURE", pnl="-2", timestamp="2026-01-03T00:00:00Z"),
        b"not json",
        decision(id=str(id_), session_id=str(session), outcome="success", timestamp="2026-01-01T00:00:00Z"),
        decision(session_id=str(session)),
        decision(symbol=None),
        outcome(uuid4()),
    )
    assert await store.write(batch) == ["stored", "dead_letter", *["stored"] * 2, "dead_letter", "stored"]
    assert await went_straight(store, sql)
    assert [len(rows) for rows in await _tables(sql)] == [2, 3, 2]
    assert [now - then for now, then in zip(committed(), before, strict=True)] == [2, 3, 2]
    row = await sql.fetchrow("SELECT outcome, pnl, session_id FROM llm_decisions WHERE id = $1", id_)
    assert tuple(row or ()) == ("FAILURE", -2, session)
    assert await store.write(batch) == ["duplicate"] * 6
    assert not await went_straight(store, sql)
    assert [now - then for now, then in zip(committed(), before, strict=True)] == [2, 3, 2]


async def test_both_ways_leave_the_same_rows(store: Store, rival: Store, sql: asyncpg.Connection) -> None:
    """Of one message each way, all columns but the ids."""
    fields = decision(
        session_id=str(uuid4()),
        timestamp="2026-11-22T10:00:00.123456789Z",
        confidence="0.12345",
        tokens_used=12,
        latency_ms=345,
        cost_usd=0.0000015,
        context={"rsi": 61.5},
        prompt_embedding=[1, 2.5, -3],
        embedding_model="e5",
        experiment="x",
        variant="b",
        propensity=0.25,
        outcome="success",
        pnl="1.5",
        note_to_self={"kept": True},
    )
    event: dict[str, Any] = {
        "timestamp": "2026-11-22T10:00:00Z",
        "source": "desk",
        "note": "late",
        "more": [1],
    }
    straight, roundabout = uuid4(), uuid4()
    await careful(rival)
    for writer, id_ in ((store, straight), (rival, roundabout)):
        batch = deliver(fields | {"id": str(id_)}, outcome(id_, pnl=3, **event))
        assert await writer.write(batch) == ["stored"] * 2
    own = "'{id,content_hash,ingested_at,decision_id,event_id,received_at,stream_sequence,outcome_sequence}'"
    for table, key in (("llm_decisions", "id"), ("llm_outcomes", "decision_id")):
        one, other = [
            await sql.fetch(
                f"SELECT to_jsonb(t) - {own}::text[] FROM {table} t WHERE {key} = $1 ORDER BY 1", id_
            )
            for id_ in (straight, roundabout)
        ]
        assert one
        assert one == other


@pytest.mark.parametrize("way", ["straight", "careful"])
async def test_a_fresh_decision_is_queued_for_the_indexes_once(
    store: Store, sql: asyncpg.Connection, way: str
) -> None:
    """What was there already is not, lest every redelivery had it indexed anew."""
    if way == "careful":
        await careful(store)
    batch = deliver(
        decision(prompt_embedding=[1, 2, 3]),
        decision(),
        outcome(uuid4()),
        decision(prompt_embedding=[4, 5, 6]),
    )
    assert await store.write(batch) == ["stored"] * 4
    assert await went_straight(store, sql) == (way == "straight")
    queued = await sql.fetch("DELETE FROM llm_embedding_queue RETURNING decision_id")
    assert {row["decision_id"] for row in queued} == {batch[0].message.identity, batch[3].message.identity}
    assert (await waiting(sql))[-3:] == [batch[at].message.identity for at in (0, 1, 3)]
    more = deliver(decision(prompt_embedding=[7, 8, 9]))
    assert await store.write([*batch, *more, *more]) == [*["duplicate"] * 4, "stored", "duplicate"]
    queued = await sql.fetch("SELECT decision_id FROM llm_embedding_queue")
    assert [row["decision_id"] for row in queued] == [more[0].message.identity]
    assert (await waiting(sql))[-1:] == [more[0].message.identity]


ID = str(uuid4())
IN_THE_WAY = {
    "twice in the batch": ([], ["first", "first"], ["stored", "duplicate"], [1, 0, 0]),
    "stored before": (["first"], ["first"], ["duplicate"], [1, 0, 0]),
    "another with its id": (["first"], ["other"], ["dead_letter"], [1, 0, 1]),
    "another in the batch": ([], ["first", "other"], ["stored", "dead_letter"], [1, 0, 1]),
    "an outcome stored before": (["outcome"], ["outcome"], ["duplicate"], [0, 1, 0]),
    "an outcome twice in the batch": ([], ["outcome", "outcome"], ["stored", "duplicate"], [0, 1, 0]),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
async def test_what_is_in_the_way_makes_a_store_careful_for_some_batches(
    store: Store, rival: Store, sql: asyncpg.Connection, what: str
) -> None:
    before, names, results, rows = IN_THE_WAY[what]
    known = dict(
        zip(
            ("first", "other", "outcome"),
            deliver(decision(id=ID), decision(id=ID, prompt="Other?"), outcome(ID)),
            strict=True,
        )
    )
    if before:
        assert await rival.write([known[name] for name in before]) == ["stored"]
        assert await went_straight(rival, sql)
    around = deliver(decision(), decision())
    batch = [around[0], *(known[name] for name in names), around[1]]
    assert await store.write(batch) == ["stored", *results, "stored"]
    assert not await went_straight(store, sql)
    assert [len(found) for found in await _tables(sql)] == [rows[0] + 2, *rows[1:]]
    for _ in range(CAREFUL_BATCHES):
        assert await store.write(deliver(decision(), outcome(uuid4()))) == ["stored"] * 2
        assert not await went_straight(store, sql)
    assert await store.write(deliver(decision(), outcome(uuid4()))) == ["stored"] * 2
    assert await went_straight(store, sql)


KEY = "ALTER TABLE llm_decisions ADD FOREIGN KEY (agent_name) REFERENCES agents"
POISON: dict[str, tuple[str, dict[str, Any]]] = {
    "a check": ("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')", {"symbol": "BAD"}),
    "a narrow column": (
        "ALTER TABLE llm_decisions ALTER decision_type TYPE varchar(7)",
        {"decision_type": "TOO LONG"},
    ),
    "a foreign key": (KEY, {"agent_name": "unheard of"}),
    "a deferred foreign key": (f"{KEY} INITIALLY DEFERRED", {"agent_name": "unheard of"}),
    "a check of outcomes": (
        "ALTER TABLE llm_outcomes ADD CHECK (pnl < 1000)",
        {"outcome": "SUCCESS", "pnl": 5000},
    ),
}


@pytest.mark.parametrize(
    "what",
    [
        pytest.param(what, marks=pytest.mark.not_on_citus(DEFERRED) if "deferred" in what else ())
        for what in POISON
    ],
)
async def test_poison_among_rows_that_are_copied_straight_is_the_only_dead_letter(
    store: Store, sql: asyncpg.Connection, postgres_server: PostgresServer, what: str
) -> None:
    """And what the straight attempt had copied before it met the poison is not counted."""
    rule, fields = POISON[what]
    await sql.execute("CREATE TABLE agents AS SELECT 'momentum'::varchar AS name")
    await sql.execute("ALTER TABLE agents ADD PRIMARY KEY (name)")
    if has_nodes(postgres_server):
        await sql.execute("SELECT create_reference_table('agents')")
    await sql.execute(rule)
    before = committed()
    good = [decision(outcome="FAILURE", pnl=-1, prompt_embedding=[1, 2, 3]) for _ in range(5)]
    batch = deliver(*good, decision(**fields), *good, outcome(uuid4()))
    assert await store.write(batch) == [*["stored"] * 5, "dead_letter", *["stored"] * 6]
    assert not await went_straight(store, sql)
    letters = await sql.fetch("SELECT reason, stream_sequence FROM llm_dead_letters")
    assert [tuple(letter) for letter in letters] == [("rejected_by_database", batch[5].message.sequence)]
    rows = [len(found) for found in await _tables(sql)]
    assert rows == [10, 11, 1]
    assert [now - then for now, then in zip(committed(), before, strict=True)] == rows
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_queue") == 10
    assert len(await waiting(sql)) == 10


async def test_a_decision_that_a_trigger_keeps_out_is_released_and_the_rest_stored(
    store: Store, sql: asyncpg.Connection
) -> None:
    """COPY says nothing of a row that a trigger drops."""
    await add_rule(sql, "IF NEW.symbol = 'OUT' THEN RETURN NULL; END IF;")
    assert await store.write(deliver(decision())) == ["stored"]
    assert not await went_straight(store, sql)
    batch = deliver(decision(), decision(symbol="OUT"), outcome(uuid4()))
    assert await store.write(batch) == ["stored", "released", "stored"]
    assert "02000" in (store.trouble or "")
    assert [len(rows) for rows in await _tables(sql)] == [2, 1, 0]
    await sql.execute("DROP FUNCTION rule CASCADE")
    assert await store.write(batch) == ["duplicate", "stored", "duplicate"]
    assert [len(rows) for rows in await _tables(sql)] == [3, 1, 0]


@pytest.mark.parametrize("table", ["llm_outcomes", "llm_dead_letters"])
async def test_what_a_trigger_keeps_out_is_not_settled(
    store: Store, sql: asyncpg.Connection, table: str
) -> None:
    """Neither stored nor a duplicate: there is no row about it, and an ack would lose it."""
    await add_rule(sql, "RETURN NULL;", table=table)
    batch = deliver(outcome(uuid4()) if table == "llm_outcomes" else b"bad")
    writing = asyncio.create_task(store.write(batch))
    await until(lambda: store.trouble or writing.done())
    if writing.done():
        assert writing.result() == ["released"]
    await sql.execute("DROP FUNCTION rule CASCADE")
    results = await writing
    if results == ["released"]:
        results = await store.write(batch)
    assert results == ["stored" if table == "llm_outcomes" else "dead_letter"]


async def test_a_trigger_that_changes_the_key_lets_no_message_in_twice(
    store: Store, sql: asyncpg.Connection
) -> None:
    await add_rule(sql, "NEW.id := gen_random_uuid();")
    batch = deliver(decision())
    first = asyncio.create_task(store.write(batch))
    await until(lambda: store.trouble or first.done())
    if first.done():
        await store.write(batch)
    assert len((await _tables(sql))[0]) <= 1
    first.cancel()
    await asyncio.wait({first})


async def test_where_policies_for_rows_forbid_copy_all_goes_the_careful_way(
    dsn: str, sql: asyncpg.Connection
) -> None:
    role = f"writer_{uuid4().hex}"
    for statement in (
        f"CREATE ROLE {role} LOGIN PASSWORD 'secret'",
        f"GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA public TO {role}",
        "ALTER TABLE llm_decisions ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY everything ON llm_decisions USING (true)",
    ):
        await sql.execute(statement)
    address = urlsplit(dsn)
    store = Store(f"postgresql://{role}:secret@{address.netloc.rpartition('@')[2]}{address.path}")
    assert await store.write(deliver(outcome(uuid4()))) == ["stored"]
    assert await went_straight(store, sql)
    assert await store.write(deliver(decision(outcome="SUCCESS"), b"bad")) == ["stored", "dead_letter"]
    assert not await went_straight(store, sql)
    assert [len(rows) for rows in await _tables(sql)] == [1, 2, 1]
    await sql.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize(
    ("table", "key", "payload"),
    [
        ("llm_decisions", "id", decision(id=ID)),
        ("llm_outcomes", "decision_id, event_id", outcome(ID)),
        ("llm_outcomes", "decision_id, event_id", decision(id=ID, outcome="SUCCESS")),
    ],
    ids=["decision", "outcome", "first outcome"],
)
async def test_without_the_key_that_refuses_a_second_row_nothing_is_copied(
    store: Store, sql: asyncpg.Connection, table: str, key: str, payload: dict[str, Any]
) -> None:
    """Also on a session that has copied straight into the table while the key was there."""
    batch = deliver(payload)
    assert await store.write(batch) == ["stored"]
    before = await _tables(sql)
    await sql.execute(f"ALTER TABLE {table} DROP CONSTRAINT {table}_pkey")
    writing = asyncio.create_task(store.write([*deliver(decision(), outcome(uuid4())), *batch]))
    await until(lambda: store.paused)
    assert await _tables(sql) == before
    await sql.execute(f"ALTER TABLE {table} ADD PRIMARY KEY ({key})")
    assert await writing == ["stored", "stored", "duplicate"]
    assert await store.write(batch) == ["duplicate"]


@pytest.mark.parametrize("careful_batches", [0, 1, CAREFUL_BATCHES])
async def test_two_stores_that_write_the_same_messages_side_by_side_never_deadlock(
    store: Store,
    rival: Store,
    sql: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
    careful_batches: int,
) -> None:
    """Straight against straight, against careful, and both careful; one of them in another order."""
    monkeypatch.setattr("tracker_daemon.store.store.CAREFUL_BATCHES", careful_batches)
    chance, before, tried = random.Random(7), committed(), retries()  # noqa: S311 - repeatable, not secret
    for _ in range(25):
        ids = [uuid4() for _ in range(30)]
        session = str(uuid4())
        batch = deliver(
            *(decision(id=str(id_), session_id=session, prompt_embedding=[1, 2, 3]) for id_ in ids[:20]),
            *(decision(id=str(id_), outcome="PENDING") for id_ in ids[20:]),
            *(outcome(id_) for id_ in ids),
        )
        shuffled = chance.sample(batch, len(batch))
        mine, others = await asyncio.gather(store.write(batch), rival.write(shuffled))
        theirs = {
            delivery.message.identity: result for delivery, result in zip(shuffled, others, strict=True)
        }
        assert {
            frozenset((result, theirs[delivery.message.identity]))
            for delivery, result in zip(batch, mine, strict=True)
        } == {frozenset(("stored", "duplicate"))}
    assert [len(rows) for rows in await _tables(sql)] == [750, 1000, 0]
    assert [now - then for now, then in zip(committed(), before, strict=True)] == [750, 1000, 0]
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_queue") == 500
    assert len(await waiting(sql)) == 750
    assert retries() == tried


@pytest.mark.parametrize("ways", ["straight", "careful", "straight and careful"])
@pytest.mark.parametrize("table", ["llm_decisions", "llm_outcomes"])
async def test_writers_that_want_the_same_rows_wait_in_one_order(
    store: Store, rival: Store, sql: asyncpg.Connection, ways: str, table: str
) -> None:
    """Both stopped at a row in the middle, neither may hold one that the other comes to later."""
    if "careful" in ways:
        await careful(rival)
    if ways == "careful":
        await careful(store)
    decisions = table == "llm_decisions"
    ids, before = sorted(uuid4() for _ in range(21)), retries()
    batch = deliver(*(decision(id=str(id_)) if decisions else outcome(id_) for id_ in ids))
    transaction = sql.transaction()
    await transaction.start()
    if decisions:
        await sql.execute(
            "INSERT INTO llm_decisions (id, agent_name, decision_type, symbol, prompt, response, model) "
            "VALUES ($1, '', '', '', '', '', '')",
            ids[10],
        )
    else:
        await sql.execute(
            "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at) "
            "VALUES ($1, $2, 'PENDING', now(), now())",
            ids[10],
            batch[10].message.identity,
        )
    writing = [asyncio.create_task(store.write(batch)), asyncio.create_task(rival.write(batch[::-1]))]
    await until(lambda: blocked(sql, 2))
    await transaction.rollback()
    mine, others = await asyncio.gather(*writing)
    assert {frozenset(results) for results in zip(mine, reversed(others), strict=True)} == {
        frozenset(("stored", "duplicate"))
    }
    key = "id" if decisions else "decision_id"
    assert await sql.fetchval(f"SELECT count(*) FROM {table} WHERE {key} = ANY($1)", ids) == len(ids)
    assert retries() == before


@pytest.mark.parametrize(
    ("moment", "result"), [("mid-copy", "stored"), ("before-commit", "stored"), ("after-commit", "duplicate")]
)
async def test_a_connection_cut_in_a_straight_copy_or_at_its_commit_leaves_each_row_once(
    moment: str, result: str, dsn: str, sql: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    id_ = uuid4()
    async with PostgresProxy(lambda: postgres_server.port) as proxy:

        async def cut() -> Fate:
            return Fate.RESET

        store = Store(dsn.replace(f":{postgres_server.port}/", f":{proxy.port}/"))
        struck = proxy.arm(moment, cut)
        before = committed()
        batch = deliver(decision(id=str(id_), prompt_embedding=[1, 2, 3]), outcome(id_), decision())
        assert await store.write(batch) == [result] * 3
        await struck
        assert proxy.cut == 1
        assert await went_straight(store, sql) == (result == "stored")
    assert [len(rows) for rows in await _tables(sql)] == [2, 1, 0]
    counted = 0 if result == "duplicate" else 1  # what was committed unheard is nobody's to count
    assert [now - then for now, then in zip(committed(), before, strict=True)] == [2 * counted, counted, 0]
    assert await sql.fetchval("SELECT count(*) FROM llm_embedding_queue") == 1
    assert len(await waiting(sql)) == 2
    assert await sql.fetchval("SELECT outcome FROM llm_decisions WHERE id = $1", id_) == "SUCCESS"


# Memory.


@pytest.fixture
def _no_collector() -> Iterator[None]:
    """Free by reference counts alone, as the daemon does for many thousands of messages."""
    gc.disable()
    yield
    gc.enable()


class Batch(list):  # type: ignore[type-arg]
    """A list that can be asked whether it is gone."""


@pytest.mark.usefixtures("_no_collector")
@pytest.mark.parametrize(
    "what",
    [
        *("good", "duplicate", "poison", "unexplained", "unshown", "invalid", "no letters"),
        pytest.param("passing", marks=pytest.mark.not_on_citus(COUNTED)),
    ],
)
async def test_a_batch_is_freed_once_it_is_written(store: Store, sql: asyncpg.Connection, what: str) -> None:
    """Batches are megabytes: what only the collector would find stays for hundreds of batches."""
    await store.write(deliver(decision()))
    if what == "poison":
        await sql.execute("ALTER TABLE llm_decisions ADD CHECK (symbol <> 'BAD')")
    elif what == "unexplained":
        await add_rule(sql, refuse("P0001"))
    elif what == "passing":
        await add_rule(sql, refuse("40001", "nextval('calls') <= 1"))
    elif what == "unshown":
        await sql.execute("ALTER TABLE llm_decisions ADD CHECK (outcome <> 'FAILURE')")
    elif what == "no letters":
        await sql.execute("ALTER TABLE llm_dead_letters RENAME TO gone")
    batch = Batch(deliver(decision(), decision(symbol="BAD"), decision(outcome="FAILURE")))
    if what == "duplicate":
        batch += batch
    elif what in {"invalid", "no letters"}:
        batch += deliver(b"bad")
    written = weakref.ref(batch)
    await store.write(batch)
    del batch
    await asyncio.sleep(0)
    assert written() is None


async def test_a_session_that_the_daemon_cannot_make_is_waited_for(dsn: str, sql: asyncpg.Connection) -> None:
    """Its decision stays in the stream, others do not wait, nothing becomes a dead letter."""
    await sql.execute("ALTER TABLE trading_sessions ADD desk text NOT NULL")
    [waiting, *rest] = batch = deliver(decision(session_id=str(session := uuid4())), decision(), decision())
    store = Store(dsn)
    assert await store.write(batch) == ["released", "stored", "stored"]
    assert store.trouble is not None
    assert "on trading_sessions, desk" in store.trouble
    assert "required columns" in store.trouble
    await sql.execute("INSERT INTO trading_sessions (id, desk) VALUES ($1, 'rates')", session)
    assert await store.write([waiting, *rest]) == ["stored", "duplicate", "duplicate"]
    await store.close()
    assert await sql.fetchval("SELECT count(*) FROM llm_dead_letters") == 0
