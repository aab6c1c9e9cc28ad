"""Where questions are asked, if that is not where decisions are stored."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.doctor.finding import Finding, findings
from tracker_daemon.postgres import connected, server_of, translated

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.config import Settings

_READ: Final = (
    *("llm_decisions", "llm_outcomes", "llm_scales", "llm_text_index", "llm_text_queue"),
    *("llm_situation_index", "llm_situation_queue", "llm_situation_axes"),
    *("llm_embedding_index", "llm_embedding_queue", "llm_prompt_queue"),
)
# What is not there at all is the schema's matter.
_DENIED: Final = """
SELECT format('GRANT SELECT ON %s TO %I', name, current_user) FROM unnest($1::text[]) name
WHERE NOT has_table_privilege(to_regclass(name), 'SELECT')
UNION ALL
SELECT format('GRANT USAGE ON SCHEMA %s TO %I', extnamespace::regnamespace, current_user)
FROM pg_extension WHERE extname = 'vector' AND NOT has_schema_privilege(extnamespace, 'USAGE')
"""


async def look(settings: Settings) -> AsyncIterator[Finding]:
    """Whether the role of TRACKER_QUERY_DSN may read what questions are about."""
    if not settings.query.enabled or settings.query.dsn is None:
        return
    dsn = settings.query.dsn.get_secret_value()
    async with connected(dsn, statement_cache=False) as connection:
        with translated():
            grants = "; ".join(grant for (grant,) in await connection.fetch(_DENIED, _READ))
    broken = [f"the role of TRACKER_QUERY_DSN lacks rights: {grants}"] if grants else []
    for finding in findings("questions", f"are asked at {server_of(dsn)}", broken=broken):
        yield finding
