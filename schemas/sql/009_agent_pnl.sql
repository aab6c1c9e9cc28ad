-- concurrently llm_decisions_agent_pnl
-- Successes and failures of an agent by their P&L. A decision without an outcome, as each is at first, is not in it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_decisions_agent_pnl
    ON llm_decisions (agent_name, outcome, COALESCE(pnl, 0::numeric), id) WHERE outcome IN ('SUCCESS', 'FAILURE');
