-- How the model of a decision is chosen, and all that was ever changed about it: what is in force is what these
-- rows add up to. Each is said on llm.alerts too. Without an agent it is about all agents.
CREATE TABLE llm_selection_events (
    agent_name    VARCHAR(100) NOT NULL,
    number        INTEGER NOT NULL,
    id            UUID NOT NULL,
    decision_type VARCHAR(50),
    kind          VARCHAR(20) NOT NULL,
    model         VARCHAR(100),
    reason        TEXT NOT NULL,
    figures       JSONB NOT NULL,
    role          TEXT NOT NULL DEFAULT session_user,
    created_at    TIMESTAMPTZ NOT NULL DEFAULT now(),
    PRIMARY KEY (agent_name, number)
);

COMMENT ON COLUMN llm_selection_events.figures IS 'what the reason rests on; of a policy, its definition';
