"""Questions find what they ask about in indexes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.plans import explained, nodes
from tests.record import BEGIN
from tracker_daemon.queries import (
    Filter,
    calibration,
    decision_stats,
    failed_decisions,
    reading,
    recent_decisions,
    successful_decisions,
)

pytestmark = pytest.mark.not_on_citus("its nodes plan for themselves")

if TYPE_CHECKING:
    import asyncpg

# Of a record as small as a test's the planner would rather read everything.
LARGE = "SET enable_seqscan = off; SET enable_bitmapscan = off; SET enable_sort = off"
AGENT = Filter(agent_name="risk")
DAY = Filter(agent_name="risk", since=BEGIN)


@pytest.mark.parametrize(
    ("ask", "wanted", "scan", "index"),
    [
        (decision_stats, AGENT, "Index Only Scan", "llm_decisions_agent_statistics"),
        (decision_stats, DAY, "Index Only Scan", "llm_decisions_agent_statistics"),
        (calibration, AGENT, "Index Only Scan", "llm_decisions_agent_statistics"),
        (calibration, DAY, "Index Only Scan", "llm_decisions_agent_statistics"),
        (recent_decisions, Filter(), "Index Scan", "llm_decisions_created_at"),
        (successful_decisions, Filter(), "Index Scan", "llm_decisions_pnl"),
        (successful_decisions, AGENT, "Index Scan", "llm_decisions_agent_pnl"),
        (failed_decisions, Filter(), "Index Scan", "llm_decisions_pnl"),
        (failed_decisions, AGENT, "Index Scan", "llm_decisions_agent_pnl"),
    ],
)
async def test_each_question_has_its_index(
    ask: Any, wanted: Filter, scan: str, index: str, record: asyncpg.Connection
) -> None:
    """A column that statistics begin to read has to be in their index; lists are sorted by theirs."""
    await record.execute("VACUUM ANALYZE llm_decisions")
    await record.execute(LARGE)
    async with explained(record) as plans, reading(record):
        await ask(record, wanted)
    [plan] = [list(nodes(plan["Plan"])) for plan in plans]
    scans = [(node["Node Type"], node.get("Index Name")) for node in plan if "Relation Name" in node]
    assert scans == [(scan, index)]
    if index.endswith("pnl"):
        assert not any("Sort" in node["Node Type"] for node in plan)
