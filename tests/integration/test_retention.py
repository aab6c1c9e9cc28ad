"""Pruning against a real PostgreSQL: what goes, what stays, in which steps, and who does it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.chores import running
from tests.conftest import has_nodes
from tests.embeddings import nearest
from tests.factory import days_ago, decision, deliver, outcome
from tests.locks import blocked
from tests.record import moved
from tests.texts import index_all
from tests.waiting import until
from tracker_daemon import metrics
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.errors import Misconfigured, TrackerError
from tracker_daemon.lease import Lease
from tracker_daemon.retention import TABLES, Retention, count, cutoff, move_horizon, prune, pruning
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from tracker_daemon.embedded import PostgresServer
    from tracker_daemon.store import Store

Rows = dict[str, set[UUID]]


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rounds follow each other, and failures too, without a pause."""
    for pause in ("ROUND_SECONDS", "LOOK_SECONDS"):
        monkeypatch.setattr(f"tracker_daemon.retention.upkeep.{pause}", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.RETRY_CAP_SECONDS", 0.02)
    monkeypatch.setattr("tracker_daemon.chore.KEEP_SECONDS", 0)


def retention(dsn: str) -> Retention:
    return Retention(dsn, 30, unreplayed=False)


async def rounds(retention: Retention, count: int) -> None:
    """Wait until it has begun so many more rounds, each with a connection of its own."""
    for _ in range(count):
        last = retention._connection
        await until(lambda: retention._connection is not last)  # noqa: B023 - called before the next turn


async def rows(sql: asyncpg.Connection) -> Rows:
    """What each table holds: decisions by their id, what belongs to them too, the others by their own."""
    own = ("llm_decisions", "llm_dead_letters", "llm_alerts")
    keys = dict.fromkeys(TABLES, "decision_id") | dict.fromkeys(own, "id")
    return {
        table: {row[0] for row in await sql.fetch(f"SELECT {keys[table]} FROM {table}")} for table in TABLES
    }


async def fill(store: Store, sql: asyncpg.Connection, dsn: str, days: float, decisions: int = 3) -> Rows:
    """Store of that age: decisions with outcomes and embeddings, half indexed; a stray; letters; alerts."""
    before = await rows(sql)
    time = days_ago(days)
    indexes = EmbeddingIndex(dsn), TextIndex(dsn)
    for half in (decisions // 2, decisions - decisions // 2):
        for index in indexes:
            await index.look()
        ids = [str(uuid4()) for _ in range(half)]
        new = [decision(id=id_, timestamp=time, prompt_embedding=[1, 2, 3]) for id_ in ids]
        new += [outcome(id_, timestamp=time, pnl=1) for id_ in ids]
        new += [outcome(id_, timestamp=days_ago(0), pnl=2) for id_ in ids]
        assert set(await store.write(deliver(*new))) == {"stored"}
    await place(sql, *map(UUID, ids))
    for index in indexes:
        await index.leave()
    await store.write(deliver(outcome(uuid4(), timestamp=time), b"replayed", b"never replayed"))
    for number, state in enumerate(("raised", "cleared"), 1):
        await alert(sql, f"agent {days}", number, state, days)
    after = await rows(sql)
    new_rows = {table: after[table] - before[table] for table in TABLES}
    await sql.execute(
        "UPDATE llm_dead_letters SET received_at = $2, "
        "replayed_at = CASE WHEN payload = 'replayed' THEN received_at END WHERE id = ANY($1)",
        new_rows["llm_dead_letters"],
        datetime.fromisoformat(time),
    )
    return new_rows


async def place(sql: asyncpg.Connection, *ids: UUID) -> None:
    """Give decisions places in the index of situations."""
    await sql.executemany(
        "INSERT INTO llm_situation_index (decision_id, symbol, agent_name, decision_type, present) "
        "VALUES ($1, '', '', '', 0)",
        [(id_,) for id_ in ids],
    )


async def alert(
    sql: asyncpg.Connection, name: str, number: int, state: str, days: float, *, published: bool = True
) -> None:
    """Keep an alert of that age."""
    await sql.execute(
        "INSERT INTO llm_alerts (id, kind, scope, name, number, state, body, created_at, published_at) "
        "VALUES ($1, 'low_success', 'agent', $2, $3, $4, '{}', $5, CASE WHEN $6 THEN now() END)",
        *(uuid4(), name, number, state, datetime.fromisoformat(days_ago(days)), published),
    )


async def pruned(sql: asyncpg.Connection, days: int = 30, *, unreplayed: bool = False) -> list[Counter[str]]:
    """Move the horizon and prune; return the rows of each step."""
    before = await cutoff(sql, timedelta(days=days))
    await move_horizon(sql, before)
    return [deleted async for deleted in prune(sql, before, unreplayed=unreplayed)]


def total(steps: list[Counter[str]]) -> Counter[str]:
    return sum(steps, Counter())


async def letters(sql: asyncpg.Connection) -> set[bytes]:
    return {row["payload"] for row in await sql.fetch("SELECT payload FROM llm_dead_letters")}


# What goes.


async def test_all_that_is_older_goes_together_and_nothing_that_is_younger(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    old, young = await fill(store, sql, dsn, 30.01), await fill(store, sql, dsn, 29.99)
    assert all(old.values())
    before = await rows(sql)
    gone = old["llm_decisions"] | old["llm_outcomes"] | old["llm_alerts"]
    gone.add(
        await sql.fetchval("SELECT id FROM llm_dead_letters WHERE replayed_at < now() ORDER BY received_at")
    )
    assert len(await nearest(sql, [1, 2, 3], None, 10)) == 6
    steps = await pruned(sql)
    after = await rows(sql)
    assert after == {table: ids - gone for table, ids in before.items()}
    assert after["llm_outcomes"] == young["llm_outcomes"]
    expected = {table: len(before[table] & gone) for table in TABLES} | {"llm_outcomes": 7}
    assert total(steps) == Counter(expected)
    assert {near.id for near in await nearest(sql, [1, 2, 3], None, 10)} == young["llm_decisions"]
    assert not total(await pruned(sql)).total()


async def test_a_round_ends_while_outcomes_and_texts_keep_coming(
    sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ever greater keys, as those that are made of times; the letters have their turn after them."""
    monkeypatch.setattr(pruning, "WALK_ROWS", 3)

    async def come(number: int) -> None:
        await sql.execute(
            "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at) "
            "VALUES ($1, $1, 'SUCCESS', now(), now())",
            UUID(int=number),
        )
        await sql.execute("INSERT INTO llm_text_index VALUES ($1, 'word')", UUID(int=number))
        await place(sql, UUID(int=number))

    before, steps = await cutoff(sql, timedelta(days=30)), 1
    await move_horizon(sql, before)
    await come(steps)
    async for _ in prune(sql, before, unreplayed=False):
        steps += 1
        assert steps < 10
        await come(steps)


@pytest.mark.parametrize("index", ["llm_text_index", "llm_situation_index"])
async def test_what_an_older_daemon_leaves_behind_in_an_index_goes_too(
    index: str, dsn: str, store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It prunes the tables that it knows; in several steps, with what is kept in between."""
    monkeypatch.setattr(pruning, "WALK_ROWS", 3)
    await fill(store, sql, dsn, 5, decisions=20)
    await index_all(dsn)
    before = (await rows(sql))[index]
    gone = set(sorted(before)[::2])
    await sql.execute("DELETE FROM llm_decisions WHERE id = ANY($1)", gone)
    assert total(await pruned(sql))[index] == len(gone) > 3
    assert (await rows(sql))[index] == before - gone


async def test_dead_letters_that_were_never_replayed_go_only_when_asked(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    await fill(store, sql, dsn, 31)
    await pruned(sql)
    assert await letters(sql) == {b"never replayed"}
    await pruned(sql, unreplayed=True)
    assert await letters(sql) == set()


async def test_of_alerts_what_was_said_and_does_not_stand_goes(sql: asyncpg.Connection) -> None:
    """So nothing is raised twice, and nothing that waits to be published is lost."""
    kept = [("raised", 31), ("cleared", 31), ("raised", 31), ("cleared", 29)]
    for number, (state, days) in enumerate(kept, 1):
        await alert(sql, "recovered lately", number, state, days)
    await alert(sql, "recovered long ago", 1, "raised", 40)
    await alert(sql, "recovered long ago", 2, "cleared", 40)
    await alert(sql, "still down", 1, "raised", 40)
    await alert(sql, "unheard", 1, "raised", 31)
    await alert(sql, "unheard", 2, "cleared", 31, published=False)
    assert total(await pruned(sql)) == Counter(llm_alerts=6)
    left = await sql.fetch("SELECT name, number FROM llm_alerts ORDER BY name")
    assert [tuple(row) for row in left] == [("recovered lately", 4), ("still down", 1), ("unheard", 2)]


async def test_sessions_stay(store: Store, sql: asyncpg.Connection) -> None:
    await store.write(deliver(decision(session_id=str(uuid4()), timestamp=days_ago(31))))
    await pruned(sql)
    assert await sql.fetchval("SELECT count(*) FROM trading_sessions") == 1


async def test_a_late_outcome_waits_until_its_own_time_is_behind_the_horizon(
    store: Store, sql: asyncpg.Connection
) -> None:
    """Of a decision that was pruned, or that never came; its decision may come any time until then."""
    gone, late = str(uuid4()), str(uuid4())
    await store.write(deliver(decision(id=gone, timestamp=days_ago(31))))
    await pruned(sql)
    waiting = deliver(outcome(gone, timestamp=days_ago(20)), outcome(late, timestamp=days_ago(20)))
    assert await store.write(waiting) == ["stored"] * 2
    await pruned(sql)
    assert await store.write(deliver(decision(id=late, timestamp=days_ago(21)))) == ["stored"]
    await pruned(sql, 20)
    assert await sql.fetch("SELECT FROM llm_outcomes") == []


async def test_an_old_event_goes_alone_and_only_where_its_decision_is_not_there(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "WALK_ROWS", 2)
    there, nowhere = str(uuid4()), str(uuid4())
    young = [outcome(nowhere, timestamp=days_ago(20)) for _ in range(3)]
    old = [outcome(id_, timestamp=days_ago(31)) for id_ in (nowhere, there)]
    await store.write(deliver(decision(id=there), *young, *old))
    assert total(await pruned(sql)) == Counter(llm_outcomes=1)
    left = [str(row["decision_id"]) for row in await sql.fetch("SELECT decision_id FROM llm_outcomes")]
    assert sorted(left) == sorted([nowhere] * 3 + [there])


async def test_counting_tells_what_would_go_and_changes_nothing(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    await fill(store, sql, dsn, 31)
    await fill(store, sql, dsn, 1)
    before = await rows(sql)
    cut = await cutoff(sql, timedelta(days=30))
    for unreplayed in (False, True):
        counted = await count(sql, cut, unreplayed=unreplayed)
        assert await rows(sql) == before
        assert await sql.fetchval("SELECT horizon FROM tracker_retention") is None
        async with contextlib.AsyncExitStack() as stack:
            transaction = sql.transaction()
            await transaction.start()
            stack.push_async_callback(transaction.rollback)
            assert total(await pruned(sql, unreplayed=unreplayed)) == counted


# In which steps.


async def test_a_step_deletes_a_bounded_number_of_decisions_whole(
    dsn: str, store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each commits by itself: whoever is killed between two has deleted no decision by halves."""
    monkeypatch.setattr(pruning, "STEP_ROWS", 7)
    await fill(store, sql, dsn, 31, decisions=40)
    before = await cutoff(sql, timedelta(days=30))
    await move_horizon(sql, before)
    left = 40
    async with contextlib.aclosing(prune(sql, before, unreplayed=False)) as steps:
        async for deleted in steps:
            left -= deleted["llm_decisions"]
            assert deleted["llm_decisions"] == min(7, left + deleted["llm_decisions"])
            assert deleted["llm_outcomes"] == 2 * deleted["llm_decisions"]
            other = await asyncpg.connect(dsn)
            held = await rows(other)
            await other.close()
            assert len(held["llm_decisions"]) == left
            assert held["llm_embedding_queue"] | held["llm_embedding_index"] == held["llm_decisions"]
            assert held["llm_text_index"] <= held["llm_decisions"]
            assert len(held["llm_outcomes"] - held["llm_decisions"]) == 1  # the stray
            if left <= 10:
                break
    assert total(await pruned(sql))["llm_decisions"] == left


async def test_many_decisions_of_one_time_go_in_as_many_steps(
    store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "STEP_ROWS", 4)
    monkeypatch.setattr(pruning, "WALK_ROWS", 3)
    time, id_ = days_ago(31), uuid4()
    await store.write(deliver(*(decision(timestamp=time) for _ in range(10))))
    await store.write(deliver(*(outcome(id_, timestamp=time) for _ in range(8))))
    steps = await pruned(sql)
    assert [step["llm_decisions"] for step in steps if step["llm_decisions"]] == [4, 4, 2]
    assert total(steps)["llm_outcomes"] == 8


async def test_the_horizon_is_committed_before_anything_goes(store: Store, sql: asyncpg.Connection) -> None:
    batch = deliver(decision(timestamp=days_ago(31)))
    await store.write(batch)
    before = await cutoff(sql, timedelta(days=30))
    assert await move_horizon(sql, before) == before
    assert await store.write(batch) == ["duplicate"]
    async for _ in prune(sql, before, unreplayed=False):
        assert await store.write(batch) == ["expired"]
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 0


async def test_the_horizon_never_moves_back(sql: asyncpg.Connection) -> None:
    for days in (30, 40, 20, 25):
        moved = await move_horizon(sql, datetime.now(UTC) - timedelta(days=days))
    assert timedelta(days=19) < datetime.now(UTC) - moved < timedelta(days=21)
    await sql.execute("DELETE FROM tracker_retention")
    with pytest.raises(Misconfigured, match="INSERT INTO tracker_retention DEFAULT VALUES"):
        await move_horizon(sql, moved)


async def test_what_is_still_to_come_is_no_cutoff(sql: asyncpg.Connection) -> None:
    """By the clock of the server: one that is wrong elsewhere would have everything expire."""
    for wrong in (timedelta(0), datetime.now(UTC) + timedelta(days=1)):
        with pytest.raises(TrackerError, match="still to come"):
            await cutoff(sql, wrong)
    long_ago = datetime(2020, 1, 1, tzinfo=UTC)
    assert await cutoff(sql, long_ago) == long_ago


async def test_pruning_gives_way_to_whoever_holds_a_row_and_then_goes_on(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    ids = [uuid4() for _ in range(3)]
    await store.write(deliver(*(decision(id=str(id_), timestamp=days_ago(31)) for id_ in ids)))
    other = await asyncpg.connect(dsn)
    transaction = sql.transaction()
    await transaction.start()
    await sql.execute("UPDATE llm_decisions SET pnl = 1 WHERE id = $1", ids[1])
    pruning_ = asyncio.create_task(pruned(other))
    for waiting in (1, 0):
        await until(partial(blocked, sql, waiting))
    assert not pruning_.done()
    await transaction.commit()
    assert total(await pruning_)["llm_decisions"] == 3
    await other.close()


async def test_rows_that_a_trigger_keeps_are_complained_about(store: Store, sql: asyncpg.Connection) -> None:
    """Rather than asked for again and again."""
    await store.write(deliver(decision(timestamp=days_ago(31))))
    await sql.execute("CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'")
    await sql.execute(
        "CREATE TRIGGER keep BEFORE DELETE ON llm_decisions FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    with pytest.raises(Misconfigured, match="llm_decisions does not let its rows go"):
        await pruned(sql)


async def test_rows_that_others_refer_to_are_complained_about(
    store: Store, sql: asyncpg.Connection, postgres_server: PostgresServer
) -> None:
    await store.write(deliver(decision(timestamp=days_ago(31))))
    await sql.execute("CREATE TABLE orders AS SELECT id AS decision_id FROM llm_decisions")
    if has_nodes(postgres_server):
        await sql.execute("SELECT create_distributed_table('orders', 'decision_id')")
    await sql.execute(
        "ALTER TABLE orders ADD CONSTRAINT why FOREIGN KEY (decision_id) REFERENCES llm_decisions"
    )
    with pytest.raises(Misconfigured, match=r"llm_decisions does not let its rows go .* foreign keys"):
        await pruned(sql)
    assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 1


# Beside a daemon.


def metric(table: str) -> float:
    return metrics.registry.get_sample_value("tracker_pruned_rows_total", {"table": table}) or 0


@pytest.mark.usefixtures("_impatient")
async def test_it_prunes_round_after_round_and_counts(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    """By the age that rows have at each round; the lease is free in between."""
    await fill(store, sql, dsn, 31)
    young = await fill(store, sql, dsn, 1)
    before = metric("llm_decisions")
    async with running(retention(dsn)):
        await until(lambda: metric("llm_decisions") == before + 3)
        earlier = moved("created_at", "- interval '30 days'")
        await sql.execute(f"UPDATE llm_decisions SET created_at = {earlier}")
        await until(lambda: metric("llm_decisions") == before + 6)
        await until(partial(Lease("retention").take, sql))
    assert await sql.fetchval("SELECT now() - horizon < interval '30 days 1 minute' FROM tracker_retention")
    assert not (await rows(sql))["llm_outcomes"] & young["llm_decisions"]


@pytest.mark.usefixtures("_impatient")
async def test_of_two_only_one_prunes(
    dsn: str, store: Store, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one goes on where the first has been taken away in the middle."""
    monkeypatch.setattr(pruning, "STEP_ROWS", 1)
    await fill(store, sql, dsn, 31, decisions=10)
    first, other = retention(dsn), Lease("retention")
    assert await other.take(sql)
    async with running(first):
        await rounds(first, 2)
        assert len((await rows(sql))["llm_decisions"]) == 10
        assert await sql.fetchval("SELECT horizon FROM tracker_retention") is None
        await other.give_back(sql)
        await until(lambda: sql.fetchval("SELECT count(*) < 10 FROM llm_decisions"))
        assert not await other.take(sql)
    async with running(retention(dsn)):
        await until(lambda: sql.fetchval("SELECT count(*) = 0 FROM llm_outcomes"))
    assert (await rows(sql))["llm_decisions"] == set()


@pytest.mark.usefixtures("_impatient")
async def test_what_keeps_it_from_pruning_is_said_once(
    dsn: str, store: Store, sql: asyncpg.Connection
) -> None:
    await store.write(deliver(decision(timestamp=days_ago(31))))
    await sql.execute("ALTER TABLE llm_embedding_index RENAME TO gone")
    before = metric("llm_decisions")
    with capture_logs() as logs:
        subject = retention(dsn)
        async with running(subject):
            await until(lambda: logs)
            await rounds(subject, 2)
            assert "llm_embedding_index" in logs[0]["reason"]
            assert await sql.fetchval("SELECT count(*) FROM llm_decisions") == 1
            await sql.execute("ALTER TABLE gone RENAME TO llm_embedding_index")
            await until(lambda: metric("llm_decisions") == before + 1)
            await rounds(subject, 2)
    assert [(line["log_level"], line["chore"]) for line in logs] == [
        ("warning", "retention"),
        ("info", "retention"),
    ]
