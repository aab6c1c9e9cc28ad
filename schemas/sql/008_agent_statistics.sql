-- concurrently llm_decisions_agent_statistics
-- Whatever statistics and calibration read of a decision: those of an agent are scattered over the whole table,
-- a page each. In place of llm_decisions_agent_name, which goes in 011.
CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_decisions_agent_statistics ON llm_decisions (agent_name, created_at)
    INCLUDE (id, outcome, pnl, outcome_at, confidence, tokens_used, latency_ms, cost_usd);
