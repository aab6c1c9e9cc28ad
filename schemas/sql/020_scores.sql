-- What scores are made of, in functions: step by step it takes the probes that one statement would, and each step is
-- one that Citus takes, too, which knows no recursive CTE over its nodes, and no LATERAL with a LIMIT.

-- One probe of the index (agent_name, created_at) for each agent, and one for its latest decision.
CREATE FUNCTION llm_active_agents(within INTERVAL, most INTEGER) RETURNS SETOF TEXT
LANGUAGE plpgsql STABLE ROWS 50 AS $$
DECLARE
    agent  TEXT;
    latest TIMESTAMPTZ;
    agents TEXT[] := '{}';
    times  TIMESTAMPTZ[] := '{}';
BEGIN
    SELECT min(agent_name) INTO agent FROM llm_decisions;
    WHILE agent IS NOT NULL LOOP
        SELECT max(created_at) INTO latest FROM llm_decisions WHERE agent_name = agent AND created_at <= now();
        IF latest > now() - within THEN
            agents := agents || agent;
            times := times || latest;
        END IF;
        SELECT min(agent_name) INTO agent FROM llm_decisions WHERE agent_name > agent;
    END LOOP;
    RETURN QUERY SELECT name FROM unnest(agents, times) AS active (name, at) ORDER BY at DESC LIMIT most;
END
$$;

-- Two ranges of the same index: the latest decisions, and as many that are resolved among the last ones.
CREATE FUNCTION llm_score_sample(agent TEXT, within INTERVAL, size INTEGER, reach INTEGER)
RETURNS TABLE (model TEXT, success BOOLEAN, confidence NUMERIC, latency_ms INTEGER, cost_usd NUMERIC)
LANGUAGE plpgsql STABLE ROWS 2000 AS $$
BEGIN
    RETURN QUERY
    SELECT d.model::text, NULL::boolean, NULL::numeric, d.latency_ms, d.cost_usd::numeric
    FROM llm_decisions d
    WHERE d.agent_name = agent AND d.created_at > now() - within AND d.created_at <= now()
    ORDER BY d.created_at DESC LIMIT size;
    RETURN QUERY
    SELECT reached.model::text, reached.outcome = 'SUCCESS', reached.confidence::numeric, NULL::integer, NULL::numeric
    FROM (
        SELECT d.model, d.outcome, d.confidence, d.created_at FROM llm_decisions d
        WHERE d.agent_name = agent AND d.created_at > now() - within AND d.created_at <= now()
        ORDER BY d.created_at DESC LIMIT reach
    ) reached
    WHERE reached.outcome IN ('SUCCESS', 'FAILURE')
    ORDER BY reached.created_at DESC LIMIT size;
END
$$;
