"""What a decision takes, with its outcome and its places in every index of the background.

Bytes on disk, table by table, in the log of PostgreSQL and in the stream; CPU time of ingest and indexes.
"""

from __future__ import annotations

import os
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from tests.bench import rows
from tests.bench.bench import Bench, Line, Result
from tests.bench.contestants import Daemons
from tests.bench.cpu import used
from tests.bench.rows import DEFAULT, EMBEDDED, LARGE, SMALL, Kind
from tests.bench.stage import DECISIONS, OUTCOMES, STREAM
from tests.bench.yardstick import Meter
from tracker_daemon.backlog import LOOK_SECONDS
from tracker_daemon.embeddings import EmbeddingIndex
from tracker_daemon.situations.index import FIRST, SituationIndex
from tracker_daemon.text_index import TextIndex

if TYPE_CHECKING:
    from tests.bench.stage import Stage
    from tests.bench.yardstick import Drained
    from tracker_daemon.backlog import Backlog

COUNTS: Final = {SMALL.name: 40_000, DEFAULT.name: 40_000, LARGE.name: 5_000, EMBEDDED.name: 10_000}
INDEXES: Final[dict[str, type[Backlog]]] = {
    "llm_text_index": TextIndex,
    "llm_situation_index": SituationIndex,
    "llm_embedding_index": EmbeddingIndex,
}

LEASES: Final = ("text_index", "situation_index", "embedding_index")

# By somebody else: the daemons have the ingest to do, and nothing besides.
_HOLD: Final = """
INSERT INTO tracker_leases (name, holder, renewed_at, expires_at)
SELECT name, gen_random_uuid(), now(), now() + interval '1 day' FROM unnest($1::text[]) AS name
"""
_GIVE_BACK: Final = "DELETE FROM tracker_leases WHERE name = ANY($1)"
_SIZES: Final = """
SELECT c.relname AS name, 'rows' AS part, pg_relation_size(c.oid) AS bytes
FROM pg_class c WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace
UNION ALL
SELECT c.relname, 'large values', pg_total_relation_size(c.reltoastrelid)
FROM pg_class c WHERE c.reltoastrelid <> 0 AND c.relnamespace = current_schema()::regnamespace
UNION ALL
SELECT i.indrelid::regclass::text, i.indexrelid::regclass::text, pg_relation_size(i.indexrelid)
FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
WHERE c.relkind IN ('r', 'p') AND c.relnamespace = current_schema()::regnamespace
"""
_LOGGED: Final = "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint"
_RESOLVED: Final = "SELECT count(*) FROM llm_decisions WHERE outcome IS NOT NULL"


async def run(bench: Bench) -> Result:
    """Store decisions of each kind with their outcomes, index them, and look what has grown, by how much."""
    result = Result()
    for kind in (SMALL, DEFAULT, LARGE, EMBEDDED):
        if bench.kind in kind.name:
            async with bench.stage() as stage:
                await _measure(bench, stage, kind, result)
    return result


async def _measure(bench: Bench, stage: Stage, kind: Kind, result: Result) -> None:
    decisions = list(rows.payloads(kind, bench.scaled(COUNTS[kind.name])))
    count = len(decisions)
    empty = await _sizes(stage)
    streamed, micros, logged = {}, {}, {}
    await stage.sql.execute(_HOLD, LEASES)
    for subject, messages in ((DECISIONS, decisions), (OUTCOMES, list(rows.outcomes(decisions)))):
        await stage.fill(messages, subject)
        streamed[subject] = (await stage.client.jetstream().stream_info(STREAM)).state.bytes / count
        before = await stage.sql.fetchval(_LOGGED)
        micros[subject] = _micros(await Daemons().drain(stage, count))
        logged[subject] = (await stage.sql.fetchval(_LOGGED) - before) / count
    if (found := await stage.sql.fetchval(_RESOLVED)) != count:
        raise RuntimeError(f"{found} of {count} decisions have their outcome")
    await stage.sql.execute(_GIVE_BACK, LEASES)
    for table in INDEXES:
        if (table != "llm_embedding_index" or kind.embedded) and (
            table != "llm_situation_index" or count >= FIRST
        ):
            bench.say(f"sizes {kind.name}: {table}")
            before = await stage.sql.fetchval(_LOGGED)
            indexed = await _indexed(stage, table, count)
            micros[table] = _micros(indexed)
            logged[table] = (await stage.sql.fetchval(_LOGGED) - before) / indexed.messages
    await stage.sql.execute("VACUUM ANALYZE")
    disk = {key: (size - empty.get(key, 0)) / count for key, size in (await _sizes(stage)).items()}
    payload = sum(map(len, decisions)) / count
    result.records.append(
        {
            "rows": kind.name,
            "messages": count,
            "payload": payload,
            "disk": {f"{table}: {part}": size for (table, part), size in disk.items() if size >= 1},
            "log": logged,
            "stream": streamed,
            "micros": micros,
        }
    )
    result.lines += _lines(kind.name, payload, disk)
    for what, taken in micros.items():
        told = " · ".join(f"{party} {time:.0f}" for party, time in taken.items())
        transit = f" · stream {streamed[what]:,.0f}" if what in streamed else ""
        figures = f"{told} µs · log {logged[what]:,.0f}{transit} bytes"
        result.lines.append(Line(f"{kind.name}: {what}", figures))


def _lines(kind: str, payload: float, disk: dict[tuple[str, str], float]) -> list[Line]:
    """A line for each table that is not all but empty, the largest first, with its parts."""
    tables: dict[str, dict[str, float]] = defaultdict(dict)
    for (table, part), size in disk.items():
        if size >= 1:
            tables[table][part] = size
    lines = [Line(f"{kind}: bytes on disk, of {payload:,.0f} in JSON", f"{sum(disk.values()):,.0f}")]
    for table, parts in sorted(tables.items(), key=lambda one: -sum(one[1].values())):
        whole = sum(parts.values())
        own, large = (parts.get(part, 0.0) for part in ("rows", "large values"))
        if whole >= 20:
            told = f"rows {own:,.0f} · large values {large:,.0f} · indexes {whole - own - large:,.0f}"
            lines.append(Line(f"{kind}: {table}", f"{whole:,.0f}: {told}"))
    return lines


def _micros(run: Drained) -> dict[str, float]:
    return {party: run.micros(party) for party in run.cpu}


async def _sizes(stage: Stage) -> dict[tuple[str, str], Any]:
    return {(row["name"], row["part"]): row["bytes"] for row in await stage.sql.fetch(_SIZES)}


async def _indexed(stage: Stage, table: str, count: int) -> Drained:
    """Have an index made as a daemon does, but without its rests."""
    index = INDEXES[table](stage.dsn)
    meter = Meter(stage, lambda: used(os.getpid()))
    meter.start()
    while await index.look() < LOOK_SECONDS or await stage.stored(table) != count:
        pass
    measured = meter.stop(count)
    await index.leave()
    return measured
