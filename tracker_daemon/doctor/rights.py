"""The rights of the daemon's role, and the grants that it lacks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.doctor.finding import Finding, findings

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

_OF_A_DAEMON: Final = {
    "llm_decisions": "SELECT, INSERT, UPDATE outcome, UPDATE pnl, UPDATE outcome_at, UPDATE outcome_sequence",
    "llm_outcomes": "SELECT, INSERT",
    "llm_dead_letters": "SELECT, INSERT",
    "trading_sessions": "SELECT, INSERT",
    "llm_embedding_queue": "SELECT, INSERT, DELETE",
    "llm_embedding_index": "SELECT, INSERT",
    "llm_text_queue": "SELECT, INSERT, DELETE",
    "llm_text_index": "SELECT, INSERT",
    "llm_situation_queue": "SELECT, INSERT, DELETE",
    "llm_situation_index": "SELECT, INSERT, UPDATE",
    "llm_situation_axes": "SELECT, INSERT, UPDATE swept_at",
    "llm_situation_cells": "SELECT, INSERT, UPDATE",
    "llm_prompt_queue": "SELECT, INSERT",
    "tracker_retention": "SELECT",
    "tracker_leases": "SELECT, INSERT, UPDATE",
    "llm_alerts": "SELECT, INSERT, UPDATE published_at",
    "llm_scales": "SELECT, INSERT",
    "llm_selection_events": "SELECT, INSERT",
    "llm_experiments": "SELECT",
}
_TO_PRUNE: Final = {
    "tracker_retention": "UPDATE horizon",
    "llm_decisions": "DELETE",
    "llm_outcomes": "DELETE",
    "llm_dead_letters": "DELETE",
    "llm_embedding_index": "DELETE",
    "llm_text_index": "DELETE",
    "llm_situation_index": "DELETE",
    "llm_alerts": "DELETE",
}
_TO_EMBED: Final = {
    "llm_prompt_queue": "DELETE",
    "llm_decisions": "UPDATE prompt_embedding, UPDATE embedding_model",
}

# Columns may be granted one by one, DELETE only as a whole.
_DENIED: Final = """
SELECT format('GRANT %s ON %s TO %I',
              verb || COALESCE(' (' || nullif(col, '') || ')', ''), name, current_user)
FROM unnest($1::text[], $2::text[], $3::text[]) AS needed (name, verb, col)
WHERE NOT CASE
    WHEN verb = 'DELETE' THEN has_table_privilege(name, verb)
    WHEN col <> '' THEN has_column_privilege(name, col, verb)
    ELSE has_any_column_privilege(name, verb)
END
"""
_BESIDE_TABLES: Final = """
SELECT format('GRANT TEMPORARY ON DATABASE %I TO %I', current_database(), current_user)
WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %s TO %I', extnamespace::regnamespace, current_user)
FROM pg_extension WHERE extname = 'vector' AND NOT has_schema_privilege(extnamespace, 'USAGE')
"""
_ON_CITUS: Final = "SELECT to_regclass('pg_dist_partition') IS NOT NULL"
# Its locks take more than INSERT; and it numbers by itself what it inserts into the coordinator's queues.
_BESIDE_CITUS: Final = """
SELECT format('GRANT UPDATE ON trading_sessions TO %I', current_user)
FROM pg_dist_partition WHERE logicalrelid = to_regclass('trading_sessions') AND repmodel = 't'
  AND NOT has_table_privilege(logicalrelid, 'UPDATE, DELETE, TRUNCATE')
UNION ALL
SELECT format('GRANT USAGE ON SEQUENCE %s TO %I', sequence, current_user)
FROM unnest(ARRAY['llm_text_queue', 'llm_situation_queue', 'llm_prompt_queue']) AS queue (name)
CROSS JOIN pg_get_serial_sequence(name, 'id') AS sequence
WHERE NOT has_sequence_privilege(sequence, 'USAGE')
"""


async def look(connection: Connection, *, prunes: bool, embeds: bool) -> list[Finding]:
    """Whether the role may do all that a daemon does, and prune and store embeddings where it is to."""
    needed = [
        *_OF_A_DAEMON.items(),
        *(_TO_PRUNE.items() if prunes else ()),
        *(_TO_EMBED.items() if embeds else ()),
    ]
    rights = [
        (table, *verb.strip().partition(" ")[::2]) for table, verbs in needed for verb in verbs.split(",")
    ]
    rows = await connection.fetch(_BESIDE_TABLES)
    rows += await connection.fetch(_DENIED, *map(list, zip(*rights, strict=True)))
    if await connection.fetchval(_ON_CITUS):
        rows += await connection.fetch(_BESIDE_CITUS)
    grants = "; ".join(grant for (grant,) in rows)
    broken = [f"the role lacks rights: {grants}"] if grants else []
    return findings("rights", "the role may write to every table", broken=broken)
