-- Where each decision lies among all situations, beside the table of decisions and not on it, for the reason that the
-- other indexes are: what is stored is queued by its transaction, and one daemon at a time moves it into the index in
-- the background. What was stored before is found by its sweep.

-- The ids that one transaction has stored; at most 100 in a row, so that it stays in one piece.
CREATE TABLE llm_situation_queue (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decisions UUID[] NOT NULL
);

-- What the numbers of a place mean, and how all places are divided into cells. There is a new generation whenever
-- decisions have become four times as many; places move into it one by one.
CREATE TABLE llm_situation_axes (
    generation INTEGER PRIMARY KEY,
    decisions  BIGINT NOT NULL,
    learnt_at  TIMESTAMPTZ NOT NULL DEFAULT now(),
    swept_at   TIMESTAMPTZ,
    axes       JSONB NOT NULL,
    tree       JSONB NOT NULL
);

COMMENT ON COLUMN llm_situation_axes.decisions IS 'how many there were when it was learnt';
COMMENT ON COLUMN llm_situation_axes.swept_at IS 'since then each decision is in the queue or in the index';

CREATE TABLE llm_situation_index (
    decision_id   UUID PRIMARY KEY,
    cell          INTEGER,
    created_at    TIMESTAMPTZ,
    symbol        VARCHAR(20) NOT NULL,
    agent_name    VARCHAR(100) NOT NULL,
    decision_type VARCHAR(50) NOT NULL,
    present       BIGINT NOT NULL,
    situation     VECTOR
);

-- As that of llm_decisions: an index alone answers only for pages that vacuum has been at.
ALTER TABLE llm_situation_index SET (
    autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_vacuum_scale_factor = 0.02
);

COMMENT ON COLUMN llm_situation_index.cell IS '65536 * generation + leaf of its tree; NULL: it has no place to be found at';
COMMENT ON COLUMN llm_situation_index.present IS 'a bit for each axis: whether the context has it';

-- All that a question looks at: the table itself is only read to change it.
CREATE INDEX llm_situation_index_cell ON llm_situation_index (cell, symbol, created_at)
    INCLUDE (decision_id, agent_name, decision_type, present, situation) WHERE cell IS NOT NULL;
