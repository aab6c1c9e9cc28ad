-- Decisions, the ledger of their outcomes, dead letters.
-- :embedding_dimensions is set once, by `tracker-daemon migrate` (psql: -v embedding_dimensions=1536).

CREATE EXTENSION IF NOT EXISTS vector;

-- Many installations have sessions of their own; a session that is not yet known gets a stub row.
CREATE TABLE IF NOT EXISTS trading_sessions (
    id         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

CREATE TABLE llm_decisions (
    id               UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id       UUID REFERENCES trading_sessions (id),
    decision_type    VARCHAR(50) NOT NULL,
    symbol           VARCHAR(20) NOT NULL,
    prompt           TEXT NOT NULL,
    prompt_embedding vector(:embedding_dimensions),
    response         TEXT NOT NULL,
    model            VARCHAR(100) NOT NULL,
    tokens_used      INTEGER,
    latency_ms       INTEGER,
    outcome          VARCHAR(20),
    pnl              DECIMAL(20, 8),
    context          JSONB,
    agent_name       VARCHAR(100) NOT NULL,
    confidence       DECIMAL(5, 4),
    created_at       TIMESTAMPTZ DEFAULT now(),
    action           VARCHAR(20),
    cost_usd         DECIMAL(14, 6),
    extra            JSONB,
    experiment       VARCHAR(100),
    variant          VARCHAR(100),
    propensity       DECIMAL(11, 10),
    outcome_at       TIMESTAMPTZ,
    outcome_sequence BIGINT,
    embedding_model  VARCHAR(100),
    content_hash     BYTEA,
    ingested_at      TIMESTAMPTZ DEFAULT now()
);

COMMENT ON COLUMN llm_decisions.outcome IS 'projection of llm_outcomes, like pnl, outcome_at, outcome_sequence';
COMMENT ON COLUMN llm_decisions.content_hash IS 'SHA-256 of the fields the payload carried: tells a duplicate from a conflict';

CREATE INDEX llm_decisions_session_id ON llm_decisions (session_id);
CREATE INDEX llm_decisions_symbol ON llm_decisions (symbol);
CREATE INDEX llm_decisions_decision_type ON llm_decisions (decision_type);
CREATE INDEX llm_decisions_outcome ON llm_decisions (outcome);
CREATE INDEX llm_decisions_agent_name ON llm_decisions (agent_name, created_at);
CREATE INDEX llm_decisions_created_at ON llm_decisions (created_at);

-- No foreign key: an outcome may come before its decision.
CREATE TABLE llm_outcomes (
    decision_id     UUID NOT NULL,
    event_id        UUID NOT NULL,
    outcome         VARCHAR(20) NOT NULL,
    pnl             DECIMAL(20, 8),
    observed_at     TIMESTAMPTZ NOT NULL,
    received_at     TIMESTAMPTZ NOT NULL,
    source          TEXT,
    note            TEXT,
    extra           JSONB,
    stream_sequence BIGINT,
    PRIMARY KEY (decision_id, event_id)
);

CREATE TABLE llm_dead_letters (
    id              UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    subject         TEXT NOT NULL,
    stream          TEXT,
    stream_sequence BIGINT,
    published_at    TIMESTAMPTZ NOT NULL,
    received_at     TIMESTAMPTZ NOT NULL DEFAULT now(),
    reason          VARCHAR(50) NOT NULL,
    field           TEXT,
    detail          TEXT NOT NULL,
    headers         JSONB,
    payload         BYTEA NOT NULL,
    replayed_at     TIMESTAMPTZ
);

CREATE INDEX llm_dead_letters_received_at ON llm_dead_letters (received_at);
