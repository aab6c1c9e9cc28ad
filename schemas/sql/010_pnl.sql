-- concurrently llm_decisions_pnl
-- Successes and failures of everybody by their P&L.
CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_decisions_pnl
    ON llm_decisions (outcome, COALESCE(pnl, 0::numeric), id) WHERE outcome IN ('SUCCESS', 'FAILURE');
