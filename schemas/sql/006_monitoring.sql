-- What dashboards and the queries of monitoring share, so that they cannot disagree: one row a decision, with what
-- rates and buckets are made of. Filters reach the indexes of the table, which those of a view with groups would not.
--   success_rate          = avg(success)           successful / total
--   resolved_success_rate = avg(resolved_success)  successful / (successful + failed)

CREATE VIEW llm_monitoring AS
SELECT created_at, date_trunc('hour', created_at, 'UTC') AS hour, agent_name, model, symbol,
       outcome, outcome IS NULL OR outcome = 'PENDING' AS undecided,
       CASE WHEN outcome = 'SUCCESS' THEN 1 ELSE 0 END::float8 AS success,
       CASE outcome WHEN 'SUCCESS' THEN 1 WHEN 'FAILURE' THEN 0 END::float8 AS resolved_success,
       confidence,
       CASE WHEN confidence BETWEEN 0 AND 1 THEN LEAST(floor(confidence * 10), 9) / 10 END::numeric(2, 1)
           AS confidence_bucket,
       latency_ms, tokens_used, cost_usd, pnl
FROM llm_decisions;

COMMENT ON COLUMN llm_monitoring.confidence_bucket IS 'the tenth that holds the confidence, by its lower bound';
