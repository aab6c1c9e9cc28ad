"""The adoption: the table gets our shape in one transaction, its outcomes a ledger in many small ones."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Final
from uuid import UUID

import structlog
from msgspec import Struct

from tracker_daemon import history, migrate
from tracker_daemon.adoption import foreign
from tracker_daemon.adoption.objections import objections
from tracker_daemon.adoption.words import Words, read_words
from tracker_daemon.errors import Misconfigured, SchemaError
from tracker_daemon.migrate import Migration
from tracker_daemon.postgres import Rejected, connected, translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

BATCH_ROWS: Final = 1000
LOG_ROWS: Final = 100_000
_AGAIN: Final = "run tracker-daemon migrate --adopt again, with the same options"

_LEFT: Final = "outcome_sequence IS NULL AND (outcome IS NOT NULL OR pnl IS NOT NULL)"
# As if each decision had come with its outcome: the event has the decision's id and time, and comes before
# whatever a stream has brought or brings. A decision without a time, or with one to come, has one before all.
_ENTER: Final = f"""
WITH decided AS (
    SELECT id, outcome AS was, COALESCE(word.means, 'PENDING') AS means,
           CASE WHEN created_at < now() THEN created_at ELSE 'epoch' END AS at
    FROM llm_decisions LEFT JOIN unnest($3::text[], $4::text[]) AS word (was, means) ON word.was = outcome
    WHERE id >= $1 AND {_LEFT}
    ORDER BY id LIMIT $2
), shown AS (
    UPDATE llm_decisions d SET outcome = means, outcome_at = at, outcome_sequence = 0
    FROM decided WHERE d.id = decided.id
    RETURNING d.id, was, means, pnl, at
)
INSERT INTO llm_outcomes
    (decision_id, event_id, outcome, pnl, observed_at, received_at, source, note, stream_sequence)
SELECT id, id, means, pnl, at, at, 'adopted', NULLIF(was, means), 0 FROM shown
RETURNING decision_id
"""


class Adopted(Struct, frozen=True):
    """What was done: outcomes entered into the ledger, None where there was nothing to adopt; migrations."""

    outcomes: int | None
    applied: list[Migration]


async def adopt(dsn: str, dimensions: int, given: Mapping[str, str]) -> Adopted:
    """Adopt the table, or go on where that was interrupted, then migrate; `given` are words for outcomes.

    Raise `SchemaError`, a sentence for each reason and nothing changed, where it cannot be adopted.
    """
    outcomes = None
    applied: list[Migration] = []
    async with migrate.locked(dsn), connected(dsn, statement_cache=False) as connection:
        with translated():
            if await history.is_foreign(connection):
                applied = await _taken_over(connection, dimensions, given)
            if await history.is_half_adopted(connection):
                outcomes = await _ledger_begun(connection, given)
                await history.finish_adoption(connection)
    return Adopted(outcomes, applied + await migrate.migrate(dsn, dimensions))


async def _taken_over(connection: Connection, dimensions: int, given: Mapping[str, str]) -> list[Migration]:
    try:
        return await migrate.briefly_locked(connection, lambda: _reshape(connection, dimensions, given))
    except (Misconfigured, Rejected) as error:
        owner = ""
        if "42501" in str(error):
            owner = "; let TRACKER_POSTGRES_MIGRATE_DSN name the owner of llm_decisions, who may make tables"
        raise Misconfigured(f"{error}; nothing was changed{owner}") from error


async def _reshape(connection: Connection, dimensions: int, given: Mapping[str, str]) -> list[Migration]:
    """Give the table our shape, and let no daemon in yet; all of it or nothing."""
    if not await foreign.is_table(connection):
        _refuse(["it is no table: rename it, and adopt the table behind it, if there is one"])
    # At once, for what is looked at must stay so; and to ask for more than one has got leads to deadlocks.
    await connection.execute("LOCK TABLE llm_decisions IN ACCESS EXCLUSIVE MODE")
    await foreign.rename(connection)
    await connection.execute("ALTER TABLE llm_decisions ADD COLUMN IF NOT EXISTS outcome VARCHAR(20)")
    _, unknown = await read_words(connection, given)
    _refuse(await objections(connection, dimensions) + unknown)
    await foreign.convert(connection, dimensions)
    await history.begin_adoption(connection)
    # An index that is built concurrently cannot be made in here; `migrate` does that afterwards.
    applied = list(itertools.takewhile(lambda migration: migration.index is None, migrate.migrations()))
    for migration in applied:
        await migrate.apply(connection, migration, dimensions)
    return applied


def _refuse(reasons: list[str]) -> None:
    if reasons:
        raise SchemaError(
            "\n".join(["llm_decisions cannot be adopted as it is; nothing was changed", *reasons])
        )


async def _ledger_begun(connection: Connection, given: Mapping[str, str]) -> int:
    words, unknown = await read_words(connection, given)
    _refuse(unknown)
    # Of a column that is new the planner knows nothing, and might read the whole table for every batch.
    await connection.execute("ANALYZE llm_decisions", timeout=migrate.STATEMENT_SECONDS)
    try:
        with translated():
            entered = await _enter_outcomes(connection, words)
    except (Misconfigured, Rejected) as error:
        raise Misconfigured(f"{error}; once that is mended {_AGAIN}") from error
    left = await connection.fetchval(
        f"SELECT count(*) FROM llm_decisions WHERE {_LEFT}", timeout=migrate.STATEMENT_SECONDS
    )
    if left:
        raise SchemaError(
            f"{left} outcomes of llm_decisions did not get into the ledger: somebody still writes to that "
            f"table, or a trigger of its keeps it from being updated; once that has an end {_AGAIN}"
        )
    return entered


async def _enter_outcomes(connection: Connection, words: Words) -> int:
    """Enter the outcomes into the ledger, each as its decision's first event; return how many those were."""
    entered, last = 0, UUID(int=0)
    while True:
        rows = await connection.fetch(
            _ENTER, last, BATCH_ROWS, list(words), list(words.values()), timeout=migrate.STATEMENT_SECONDS
        )
        entered += len(rows)
        if entered % LOG_ROWS < len(rows):
            log.info("entering outcomes into the ledger", so_far=entered)
        if len(rows) < BATCH_ROWS:
            return entered
        last = max(row["decision_id"] for row in rows)
