-- What was said on llm.alerts, and what is to be said still: each row is one change, and the last one of its
-- scope and name is where that stands.
CREATE TABLE llm_alerts (
    id           UUID PRIMARY KEY,
    kind         VARCHAR(50) NOT NULL,
    scope        VARCHAR(20) NOT NULL,
    name         VARCHAR(100) NOT NULL,
    number       INTEGER NOT NULL,
    state        VARCHAR(20) NOT NULL,
    body         JSONB NOT NULL,
    created_at   TIMESTAMPTZ NOT NULL DEFAULT now(),
    published_at TIMESTAMPTZ,
    UNIQUE (kind, scope, name, number)
);
