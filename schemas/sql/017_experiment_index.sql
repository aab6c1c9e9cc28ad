-- concurrently llm_decisions_experiment
-- The decisions of an experiment; those of none, most of all, are not in it.
CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_decisions_experiment ON llm_decisions (experiment)
    WHERE experiment IS NOT NULL;
