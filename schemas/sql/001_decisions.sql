-- Decisions, the ledger of their outcomes, dead letters.
-- :embedding_dimensions is set once, by `tracker-daemon migrate`.

-- Where it is there it is not asked for: Citus lets its owner alone ask, IF NOT EXISTS or not.
DO $$
BEGIN
IF NOT EXISTS (SELECT FROM pg_extension WHERE extname = 'vector') THEN

CREATE EXTENSION vector;

END IF;
END
$$;

-- Many installations have sessions of their own; a session that is not yet known gets a stub row.
-- They may be in any schema of the search path, where IF NOT EXISTS looks into the first one alone.
DO $$
BEGIN
IF to_regclass('trading_sessions') IS NULL THEN

CREATE TABLE trading_sessions (
    id         UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    created_at TIMESTAMPTZ NOT NULL DEFAULT now()
);

END IF;
END
$$;

CREATE TABLE IF NOT EXISTS llm_decisions (
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
    created_at       TIMESTAMPTZ DEFAULT now()
);

-- A table that is adopted may have any of this already.
ALTER TABLE llm_decisions
    ADD COLUMN IF NOT EXISTS session_id       UUID REFERENCES trading_sessions (id),
    ADD COLUMN IF NOT EXISTS prompt_embedding vector(:embedding_dimensions),
    ADD COLUMN IF NOT EXISTS tokens_used      INTEGER,
    ADD COLUMN IF NOT EXISTS latency_ms       INTEGER,
    ADD COLUMN IF NOT EXISTS outcome          VARCHAR(20),
    ADD COLUMN IF NOT EXISTS pnl              DECIMAL(20, 8),
    ADD COLUMN IF NOT EXISTS context          JSONB,
    ADD COLUMN IF NOT EXISTS confidence       DECIMAL(5, 4),
    ADD COLUMN IF NOT EXISTS action           VARCHAR(20),
    ADD COLUMN IF NOT EXISTS cost_usd         DECIMAL(14, 6),
    ADD COLUMN IF NOT EXISTS extra            JSONB,
    ADD COLUMN IF NOT EXISTS experiment       VARCHAR(100),
    ADD COLUMN IF NOT EXISTS variant          VARCHAR(100),
    ADD COLUMN IF NOT EXISTS propensity       DECIMAL(11, 10),
    ADD COLUMN IF NOT EXISTS outcome_at       TIMESTAMPTZ,
    ADD COLUMN IF NOT EXISTS outcome_sequence BIGINT,
    ADD COLUMN IF NOT EXISTS embedding_model  VARCHAR(100),
    ADD COLUMN IF NOT EXISTS content_hash     BYTEA,
    ADD COLUMN IF NOT EXISTS ingested_at      TIMESTAMPTZ DEFAULT now();

COMMENT ON COLUMN llm_decisions.outcome IS 'projection of llm_outcomes, like pnl, outcome_at, outcome_sequence';
COMMENT ON COLUMN llm_decisions.content_hash IS 'SHA-256 of the fields the payload carried: tells a duplicate from a conflict';

CREATE INDEX IF NOT EXISTS llm_decisions_session_id ON llm_decisions (session_id);
CREATE INDEX IF NOT EXISTS llm_decisions_symbol ON llm_decisions (symbol);
CREATE INDEX IF NOT EXISTS llm_decisions_decision_type ON llm_decisions (decision_type);
CREATE INDEX IF NOT EXISTS llm_decisions_outcome ON llm_decisions (outcome);
CREATE INDEX IF NOT EXISTS llm_decisions_agent_name ON llm_decisions (agent_name, created_at);
CREATE INDEX IF NOT EXISTS llm_decisions_created_at ON llm_decisions (created_at);

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
