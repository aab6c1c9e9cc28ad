-- concurrently llm_situation_index_filter
-- All that a filter names is in the key: what it does not let through is left in the index, and not taken out to be looked at.
CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_situation_index_filter
    ON llm_situation_index (cell, symbol, agent_name, decision_type, created_at)
    INCLUDE (decision_id, present, situation) WHERE cell IS NOT NULL;
