-- What is compared: each experiment as it was begun. Which arm a decision was made by it says itself, in
-- `experiment` and `variant`.
CREATE TABLE llm_experiments (
    name       VARCHAR(100) PRIMARY KEY,
    definition JSONB NOT NULL,
    started_at TIMESTAMPTZ NOT NULL DEFAULT now(),
    stopped_at TIMESTAMPTZ
);
