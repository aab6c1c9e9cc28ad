"""Adoption of tables that someone else made, dumps of two shapes: every row is kept, or nothing changed."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest
from structlog.testing import capture_logs

from tests.conftest import DIMENSIONS
from tests.factory import decision, deliver, outcome
from tests.texts import waiting
from tests.waiting import until
from tracker_daemon.adoption import Adopted, adopt, foreign, parse_word
from tracker_daemon.embedded.wheels import postgres_programs
from tracker_daemon.errors import Misconfigured, SchemaError
from tracker_daemon.migrate import check_schema, migrate, migrations
from tracker_daemon.postgres import connected
from tracker_daemon.store import Store
from tracker_daemon.store.reconcile import look_up, trace, unprojected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

DUMPS = Path(__file__).with_name("dumps")
WORDS = {"profitable": "SUCCESS", "loss": "FAILURE", "breakeven": "PENDING", "it's open": "PENDING"}
RENAMED = {"outcome_pnl": "pnl", "metadata": "context"}
Rows = dict[UUID, dict[str, Any]]


@pytest.fixture
async def theirs(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of `database`, in which nothing was made yet."""
    connection = await asyncpg.connect(database)
    yield connection
    await connection.close()


async def restore(connection: asyncpg.Connection, dump: str) -> Rows:
    """Fill the empty database from a dump and return its decisions by id."""
    await connection.execute((DUMPS / f"{dump}.sql").read_text("utf-8"))
    return await decisions(connection)


async def decisions(connection: asyncpg.Connection) -> Rows:
    """Every decision by its id, embeddings and JSON as text."""
    rows = await connection.fetch("SELECT * FROM llm_decisions")
    return {row["id"]: dict(row) for row in rows}


async def events(connection: asyncpg.Connection) -> list[tuple[Any, ...]]:
    """The ledger, in the order of its key."""
    return [tuple(row) for row in await connection.fetch("SELECT * FROM llm_outcomes ORDER BY 1, 2")]


async def dumped(dsn: str, folder: Path) -> str:
    """The whole database as pg_dump writes it."""
    program = postgres_programs(folder) / "pg_dump"
    process = await asyncio.create_subprocess_exec(
        program, "--restrict-key=none", dsn, stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert process.returncode == 0
    return out.decode()


def same(old: Any, new: Any) -> bool:
    """Whether a value is still what it was, whatever the type of its column."""
    if isinstance(old, float) and isinstance(new, Decimal):
        return float(new) == old
    if isinstance(old, str) and isinstance(new, str) and old.startswith("{"):
        return json.loads(old) == json.loads(new)
    return bool(old == new)


def expected_outcome(row: dict[str, Any]) -> str | None:
    """What a decision of a dump shows afterwards."""
    pnl = row.get("pnl", row.get("outcome_pnl"))
    word = row["outcome"]
    if word is None:
        return None if pnl is None else "PENDING"
    return WORDS.get(word, word.upper())


async def assert_kept(connection: asyncpg.Connection, before: Rows) -> None:
    """Every old value is in its new place, and the ledger begins with every outcome."""
    after = await decisions(connection)
    assert after.keys() == before.keys()
    for id_, old in before.items():
        new = after[id_]
        for name, value in old.items():
            if name != "outcome":
                assert same(value, new[RENAMED.get(name, name)]), (id_, name)
        assert new["outcome"] == expected_outcome(old)
        assert new["content_hash"] is None
    ledger = {row["decision_id"]: row for row in await connection.fetch("SELECT * FROM llm_outcomes")}
    assert ledger.keys() == {id_ for id_, row in after.items() if row["outcome"]}
    for id_, event in ledger.items():
        old, new = before[id_], after[id_]
        assert event["event_id"] == id_
        assert (event["outcome"], event["pnl"]) == (new["outcome"], new["pnl"])
        assert (event["note"] or event["outcome"]) == (old["outcome"] or "PENDING")
        if old["created_at"] is not None:
            assert event["observed_at"] == event["received_at"] == new["outcome_at"] == old["created_at"]
    assert await unprojected(connection, list(after)) == {}


@pytest.mark.parametrize("dump", ["seed", "older"])
async def test_every_value_is_kept_and_every_outcome_begins_a_ledger(
    dump: str, database: str, theirs: asyncpg.Connection
) -> None:
    before = await restore(theirs, dump)
    done = await adopt(database, DIMENSIONS, WORDS)
    assert done.applied == migrations()
    await assert_kept(theirs, before)
    assert done.outcomes == await theirs.fetchval("SELECT count(*) FROM llm_outcomes")
    await check_schema(database, DIMENSIONS)


@pytest.mark.parametrize("dump", ["seed", "older"])
async def test_the_table_has_our_columns_and_indexes_afterwards_and_none_twice(
    dump: str, database: str, theirs: asyncpg.Connection, sql: asyncpg.Connection
) -> None:
    """Names, types and what may be NULL are those of a table that was migrated; their own columns remain."""
    columns = """
        SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute
        WHERE attrelid = 'llm_decisions'::regclass AND attnum > 0 AND NOT attisdropped
    """
    required = f"{columns} AND attnotnull"
    indexes = "SELECT indexname::text, indexdef FROM pg_indexes WHERE tablename = 'llm_decisions'"
    await restore(theirs, dump)
    await adopt(database, DIMENSIONS, WORDS)
    assert set(await theirs.fetch(columns)) - {("strategy", "text")} == set(await sql.fetch(columns))
    assert set(await theirs.fetch(required)) - {("created_at", "timestamp with time zone")} == set(
        await sql.fetch(required)
    )
    ours = {name for name, _ in await sql.fetch(indexes)}
    assert {name for name, _ in await theirs.fetch(indexes)} - {"idx_llm_decisions_agent"} == ours


async def test_the_shape_that_adoption_aims_at_is_what_the_migrations_make(sql: asyncpg.Connection) -> None:
    made = dict(
        await sql.fetch(
            "SELECT attname::text, format_type(atttypid, atttypmod) FROM pg_attribute "
            "WHERE attrelid = 'llm_decisions'::regclass AND attnum > 0"
        )
    )
    aimed = {name: kind.format(dimensions=DIMENSIONS) for name, kind in foreign.TYPES.items()}
    assert aimed.items() <= made.items()
    assert set(foreign.OWN) <= made.keys()
    [first] = [migration.sql for migration in migrations() if migration.number == 1]
    for name, covered in foreign.INDEXES.items():
        assert f"{name} ON llm_decisions ({', '.join(covered)});" in first


async def test_rows_are_queued_for_the_indexes(database: str, theirs: asyncpg.Connection) -> None:
    before = await restore(theirs, "seed")
    await adopt(database, DIMENSIONS, {})
    queued = {id_ for (id_,) in await theirs.fetch("SELECT decision_id FROM llm_embedding_queue")}
    assert queued == {id_ for id_, row in before.items() if row["prompt_embedding"]}
    assert queued
    assert sorted(await waiting(theirs)) == sorted(before)


@pytest.mark.parametrize("dump", ["seed", "older"])
async def test_to_adopt_twice_changes_nothing(
    dump: str, database: str, theirs: asyncpg.Connection, servers_folder: Path
) -> None:
    await restore(theirs, dump)
    await adopt(database, DIMENSIONS, WORDS)
    before = await dumped(database, servers_folder)
    again = await adopt(database, DIMENSIONS, WORDS)
    assert (again.outcomes, again.applied) == (None, [])
    assert await dumped(database, servers_folder) == before


async def test_a_database_of_ours_or_an_empty_one_is_only_migrated(
    database: str, theirs: asyncpg.Connection
) -> None:
    done = await adopt(database, DIMENSIONS, {})
    assert (done.outcomes, done.applied) == (None, migrations())
    assert await theirs.fetchval("SELECT count(*) FROM tracker_migrations WHERE number = 0") == 0


async def test_while_an_adoption_is_not_finished_no_daemon_starts_and_none_migrates(
    database: str, theirs: asyncpg.Connection
) -> None:
    """It goes on where it was: what the first attempt entered is not entered anew."""
    before = await restore(theirs, "seed")
    await theirs.execute(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'not this one'; END $$;"
        "CREATE TRIGGER refuse BEFORE UPDATE ON llm_decisions FOR EACH ROW "
        "WHEN (NEW.id = 'ffffffff-ffff-ffff-ffff-ffffffffffff') EXECUTE FUNCTION refuse()"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tracker_daemon.adoption.takeover.BATCH_ROWS", 4)
        with pytest.raises(Misconfigured, match=r"not this one; .* run tracker-daemon migrate --adopt again"):
            await adopt(database, DIMENSIONS, {})
    entered = await events(theirs)
    assert len(entered) >= 4
    for refuse in (migrate, check_schema):
        with pytest.raises(SchemaError, match="not finished: run tracker-daemon migrate --adopt again"):
            await refuse(database, DIMENSIONS)
    await theirs.execute("DROP TRIGGER refuse ON llm_decisions")
    done = await adopt(database, DIMENSIONS, {})
    await assert_kept(theirs, before)
    ledger = await events(theirs)
    assert set(entered) <= set(ledger)
    assert done.outcomes == len(ledger) - len(entered)
    await check_schema(database, DIMENSIONS)


async def test_who_comes_in_the_middle_waits_until_it_is_finished(
    database: str, theirs: asyncpg.Connection
) -> None:
    """Another adoption, and a daemon that migrates at its start; one that only looks is sent away."""
    before = await restore(theirs, "seed")
    await theirs.execute(
        "CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS "
        "$$ BEGIN PERFORM pg_advisory_xact_lock(42); RETURN NEW; END $$;"
        "CREATE TRIGGER wait_here BEFORE UPDATE ON llm_decisions FOR EACH ROW EXECUTE FUNCTION wait_here();"
        "SELECT pg_advisory_lock(42)"
    )
    held = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 42 AND NOT granted)"
    async with asyncio.TaskGroup() as group:
        first = group.create_task(adopt(database, DIMENSIONS, {}))
        await until(lambda: theirs.fetchval(held))
        with pytest.raises(SchemaError, match="not finished"):
            await check_schema(database, DIMENSIONS)
        with capture_logs() as logs:
            second = group.create_task(adopt(database, DIMENSIONS, {}))
            daemon = group.create_task(migrate(database, DIMENSIONS))
            await until(lambda: sum("waiting" in line["event"] for line in logs) == 2)
        await theirs.execute("SELECT pg_advisory_unlock(42)")
    await assert_kept(theirs, before)
    assert first.result().outcomes == await theirs.fetchval("SELECT count(*) FROM llm_outcomes")
    assert (second.result(), daemon.result()) == (Adopted(None, []), [])


async def test_a_table_in_partitions_by_its_id_keeps_them(database: str, theirs: asyncpg.Connection) -> None:
    await restore(theirs, "seed")
    await theirs.execute(
        "ALTER TABLE llm_decisions RENAME TO whole;"
        "CREATE TABLE llm_decisions (LIKE whole INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY HASH (id);"
        "CREATE TABLE odd PARTITION OF llm_decisions FOR VALUES WITH (MODULUS 2, REMAINDER 1);"
        "CREATE TABLE even PARTITION OF llm_decisions FOR VALUES WITH (MODULUS 2, REMAINDER 0);"
        "INSERT INTO llm_decisions TABLE whole; DROP TABLE whole"
    )
    before = await decisions(theirs)
    await adopt(database, DIMENSIONS, {})
    await assert_kept(theirs, before)
    store = Store(database)
    known = next(id_ for id_, row in before.items() if row["outcome"])
    batch = deliver(decision(id=str(known)), decision(), outcome(known, "PENDING", pnl=77))
    assert await store.write(batch) == ["duplicate", "stored", "stored"]
    await store.close()
    assert await theirs.fetchval("SELECT pnl FROM llm_decisions WHERE id = $1", known) == 77


async def test_an_outcome_that_a_trigger_keeps_out_is_missed(
    database: str, theirs: asyncpg.Connection
) -> None:
    """As on a table that is to be appended to only: it takes the UPDATE without a word, and ignores it."""
    before = await restore(theirs, "seed")
    await theirs.execute(
        "CREATE FUNCTION ignore() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;"
        "CREATE TRIGGER ignore BEFORE UPDATE ON llm_decisions FOR EACH ROW EXECUTE FUNCTION ignore()"
    )
    decided = sum(row["outcome"] is not None or row["pnl"] is not None for row in before.values())
    with pytest.raises(SchemaError, match=rf"^{decided} outcomes .* trigger .* migrate --adopt again"):
        await adopt(database, DIMENSIONS, {})
    with pytest.raises(SchemaError, match="not finished"):
        await check_schema(database, DIMENSIONS)
    await theirs.execute("DROP TRIGGER ignore ON llm_decisions")
    await adopt(database, DIMENSIONS, {})
    await assert_kept(theirs, before)


async def test_the_history_of_a_migration_that_failed_does_not_make_the_table_ours(
    database: str, theirs: asyncpg.Connection
) -> None:
    """A daemon came first and could not make its tables; then the dump was restored."""
    await theirs.execute("CREATE TABLE llm_outcomes ()")
    with pytest.raises(Misconfigured):
        await migrate(database, DIMENSIONS)
    await theirs.execute("DROP TABLE llm_outcomes")
    before = await restore(theirs, "seed")
    for refuse in (migrate, check_schema):
        with pytest.raises(SchemaError, match="tracker-daemon migrate --adopt takes it over"):
            await refuse(database, DIMENSIONS)
    await adopt(database, DIMENSIONS, {})
    await assert_kept(theirs, before)


async def test_a_default_of_theirs_is_no_outcome_of_a_new_decision(
    database: str, theirs: asyncpg.Connection
) -> None:
    await restore(theirs, "seed")
    await theirs.execute(
        "ALTER TABLE llm_decisions ALTER outcome SET DEFAULT 'pending', ALTER pnl SET DEFAULT 0, "
        "ADD ingested_at timestamptz"
    )
    await adopt(database, DIMENSIONS, {})
    store = Store(database)
    await store.write(deliver(decision(id=str(id_ := uuid4()))))
    await store.close()
    row = (await decisions(theirs))[id_]
    assert (row["outcome"], row["pnl"]) == (None, None)
    assert row["ingested_at"] is not None


@pytest.mark.parametrize("at", ["infinity", "2999-12-31"])
async def test_the_outcome_of_a_decision_with_a_time_to_come_is_replaced(
    at: str, database: str, theirs: asyncpg.Connection
) -> None:
    await restore(theirs, "seed")
    id_ = await theirs.fetchval(
        f"UPDATE llm_decisions SET created_at = '{at}' "
        "WHERE id = (SELECT id FROM llm_decisions WHERE outcome = 'SUCCESS' LIMIT 1) RETURNING id"
    )
    await adopt(database, DIMENSIONS, {})
    store = Store(database)
    await store.write(deliver(outcome(id_, "FAILURE", pnl=-1)))
    await store.close()
    assert await theirs.fetchval("SELECT outcome FROM llm_decisions WHERE id = $1", id_) == "FAILURE"


REFUSED = {
    "ALTER TABLE llm_decisions DROP COLUMN model": "has no column model: add it",
    "ALTER TABLE llm_decisions ADD outcome_pnl numeric": "has pnl and outcome_pnl, the same here",
    "ALTER TABLE llm_decisions ADD outcome_at date": "has a column outcome_at of its own",
    "ALTER TABLE llm_decisions ADD venue text NOT NULL DEFAULT 'x'; "
    "ALTER TABLE llm_decisions ALTER venue DROP DEFAULT": "wants a value for venue, of which",
    "ALTER TABLE llm_decisions ALTER symbol TYPE text; "
    "UPDATE llm_decisions SET symbol = repeat('x', 21)": r"column symbol is text, must be .*\(20\)",
    "ALTER TABLE llm_decisions ALTER confidence TYPE float8; "
    "UPDATE llm_decisions SET confidence = 0.123456": r"double precision, must be numeric\(5,4\)",
    "ALTER TABLE llm_decisions ALTER tokens_used TYPE bigint; "
    "UPDATE llm_decisions SET tokens_used = 3000000000": "tokens_used is bigint, must be integer",
    "ALTER TABLE llm_decisions ALTER created_at TYPE timestamp": "created_at is timestamp without time zone",
    "ALTER TABLE llm_decisions ALTER prompt_embedding TYPE vector(4) USING '[1,2,3,4]'": (
        "set TRACKER_EMBEDDING_DIMENSIONS=4"
    ),
    "ALTER TABLE llm_decisions DROP CONSTRAINT llm_decisions_pkey": r"ADD PRIMARY KEY \(id\)",
    "ALTER TABLE llm_decisions DROP CONSTRAINT llm_decisions_pkey, ALTER id DROP NOT NULL, ADD UNIQUE (id); "
    "UPDATE llm_decisions SET id = NULL WHERE symbol = 'ETH'": "unique and not NULL",
    "ALTER TABLE llm_decisions SET UNLOGGED": "ALTER TABLE llm_decisions SET LOGGED",
    "CREATE TABLE llm_decisions_2024 () INHERITS (llm_decisions)": "no key keeps the ids",
    "ALTER TABLE llm_decisions ADD action varchar(20) GENERATED ALWAYS AS (left(response, 4)) STORED": (
        "ALTER COLUMN action DROP EXPRESSION"
    ),
    "CREATE INDEX llm_decisions_agent_name ON llm_decisions (agent_name)": (
        "llm_decisions_agent_name that is no index of llm_decisions on agent_name, created_at: rename it"
    ),
    "CREATE TABLE sessions (id uuid PRIMARY KEY); ALTER TABLE llm_decisions "
    "DROP CONSTRAINT llm_decisions_session_id_fkey, "
    'ADD CONSTRAINT "Ours" FOREIGN KEY (session_id) REFERENCES sessions NOT VALID': (
        'DROP CONSTRAINT "Ours", or rename sessions to trading_sessions'
    ),
    "CREATE SCHEMA first; ALTER DATABASE {database} SET search_path = first, public": (
        "llm_decisions is in the schema public, and the daemon would make its tables in first"
    ),
    "ALTER TABLE llm_decisions ADD CONSTRAINT done CHECK (outcome <> 'PENDING') NOT VALID": (
        "constraint done of llm_decisions forbids one of SUCCESS, FAILURE, PENDING"
    ),
    "CREATE TYPE word AS ENUM ('SUCCESS', 'FAILURE', 'PENDING'); "
    "ALTER TABLE llm_decisions ALTER outcome TYPE word USING upper(outcome)::word, "
    "ADD CONSTRAINT known CHECK (outcome <= 'PENDING'::word)": "constraint known of llm_decisions forbids",
    "ALTER TABLE llm_decisions DROP session_id; DROP TABLE trading_sessions; "
    "CREATE TABLE trading_sessions (id bigint)": "trading_sessions has no column id of type uuid",
    "ALTER TABLE llm_decisions RENAME TO decisions; CREATE VIEW llm_decisions AS TABLE decisions": "no table",
    "UPDATE llm_decisions SET outcome = 'won' WHERE outcome = 'SUCCESS'": "--outcome won=SUCCESS or =FAILURE",
    "ALTER TABLE llm_decisions ALTER model TYPE varchar(64); "
    "CREATE VIEW models AS SELECT model FROM llm_decisions": "used by a view or rule; nothing was changed",
    "CREATE TABLE llm_outcomes ()": "001_decisions: .*llm_outcomes.*; nothing was changed",
}


@pytest.mark.parametrize("change", REFUSED)
async def test_what_cannot_be_adopted_is_refused_in_words_and_not_changed(
    change: str, database: str, theirs: asyncpg.Connection, servers_folder: Path
) -> None:
    await restore(theirs, "seed")
    await theirs.execute(change.replace("{database}", urlsplit(database).path.removeprefix("/")))
    before = await dumped(database, servers_folder)
    with pytest.raises((SchemaError, Misconfigured), match=REFUSED[change]) as caught:
        await adopt(database, DIMENSIONS, {})
    assert "nothing was changed" in str(caught.value)
    assert await dumped(database, servers_folder) == before


async def test_every_reason_and_every_unknown_word_is_named_at_once(
    database: str, theirs: asyncpg.Connection, servers_folder: Path
) -> None:
    before = await restore(theirs, "older")
    await theirs.execute("ALTER TABLE llm_decisions DROP COLUMN model, DROP CONSTRAINT llm_decisions_pkey")
    dump = await dumped(database, servers_folder)
    with pytest.raises(SchemaError) as caught:
        await adopt(database, DIMENSIONS, {"profitable": "SUCCESS"})
    said = str(caught.value)
    assert len(said.splitlines()) == 6
    for word in ("loss", "breakeven", "it's open"):
        count = sum(row["outcome"] == word for row in before.values())
        assert f"the outcome {word!r} of {count} rows means nothing here" in said
    assert """--outcome 'it'"'"'s open=SUCCESS' or""" in said
    assert "'profitable'" not in said
    assert await dumped(database, servers_folder) == dump


async def test_a_role_that_does_not_own_the_table_is_told_so(
    database: str, theirs: asyncpg.Connection
) -> None:
    await restore(theirs, "seed")
    role, parts = f"guest_{uuid4().hex}", urlsplit(database)
    await theirs.execute(f"CREATE ROLE {role} LOGIN PASSWORD 's3cret'; GRANT ALL ON llm_decisions TO {role}")
    guest = f"postgresql://{role}:s3cret@{parts.hostname}:{parts.port}{parts.path}"
    try:
        with pytest.raises(Misconfigured, match=r"must be owner of .*; nothing was changed") as caught:
            await adopt(guest, DIMENSIONS, {})
    finally:
        await theirs.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")
    assert "TRACKER_POSTGRES_MIGRATE_DSN" in str(caught.value)
    assert "s3cret" not in str(caught.value)


async def test_the_message_of_an_adopted_decision_is_a_duplicate_however_it_reads(
    database: str, theirs: asyncpg.Connection
) -> None:
    """Nobody knows what it said; but an outcome that the row has not is news."""
    before = await restore(theirs, "seed")
    await adopt(database, DIMENSIONS, {})
    undecided = next(id_ for id_, row in before.items() if not row["outcome"] and row["pnl"] is None)
    batch = deliver(
        *(decision(id=str(id_), agent_name="somebody") for id_ in before),
        decision(id=str(undecided), outcome="FAILURE", pnl=-1),
    )
    store = Store(database)
    assert await store.write(batch) == ["duplicate"] * len(batch)
    await store.close()
    row = (await decisions(theirs))[undecided]
    assert (row["outcome"], row["pnl"]) == ("FAILURE", -1)
    assert len(await decisions(theirs)) == len(before)
    assert await theirs.fetchval("SELECT count(*) FROM llm_dead_letters") == 0
    async with connected(database) as connection:
        traces = [trace(delivery.message, delivery.record) for delivery in batch]
        assert await look_up(connection, traces) == ["row"] * len(batch)


async def test_an_outcome_of_the_decisions_own_time_replaces_the_adopted_one(
    database: str, theirs: asyncpg.Connection
) -> None:
    """Agents give outcomes the time of their decision; and one row has no time at all."""
    before = await restore(theirs, "seed")
    await adopt(database, DIMENSIONS, {})
    settled = {id_: row["created_at"] for id_, row in before.items() if row["outcome"]}
    assert None in settled.values()
    store = Store(database)
    await store.write(
        deliver(
            *(
                outcome(
                    id_, "PENDING", pnl=77, timestamp=(at or datetime(2025, 1, 1, tzinfo=UTC)).isoformat()
                )
                for id_, at in settled.items()
            )
        )
    )
    await store.close()
    after = await decisions(theirs)
    assert {(after[id_]["outcome"], after[id_]["pnl"]) for id_ in settled} == {("PENDING", 77)}
    assert await unprojected(theirs, list(after)) == {}


@pytest.mark.parametrize("text", ["profitable", "profitable=", "profitable=GOOD", "=NULL"])
def test_a_word_is_given_with_one_of_the_three_outcomes(text: str) -> None:
    with pytest.raises(ValueError, match="WORD=SUCCESS, WORD=FAILURE or WORD=PENDING"):
        parse_word(text)
    assert parse_word("a=b=success") == ("a=b", "SUCCESS")
