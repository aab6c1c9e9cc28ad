-- The vector index, beside the table of decisions and not on it: the projection of an outcome would enter each
-- row into it anew. One daemon at a time fills it in the background, out of a queue that each transaction which
-- stores decisions adds to: a committed embedding is in the queue, in the index, or (after a backfill) in both.

DO $$
DECLARE
    installed TEXT := (SELECT extversion FROM pg_extension WHERE extname = 'vector');
BEGIN
    IF string_to_array(installed, '.')::int[] < '{0,8}' THEN
        RAISE EXCEPTION 'pgvector % in this database is too old, 0.8 or newer is needed (ALTER EXTENSION vector UPDATE)',
            installed USING ERRCODE = 'feature_not_supported';
    END IF;
END
$$;

-- No foreign keys here: their check would lock each fresh row of the hot table, and so write it a second time.
CREATE TABLE llm_embedding_queue (
    decision_id UUID PRIMARY KEY
);

-- One bit a dimension: an index over the vectors themselves takes five times as long to keep.
CREATE TABLE llm_embedding_index (
    decision_id UUID PRIMARY KEY,
    signs       BIT(:embedding_dimensions) NOT NULL
);

COMMENT ON COLUMN llm_embedding_index.signs IS 'binary_quantize(prompt_embedding), whose distances only preselect';

CREATE INDEX llm_embedding_index_signs ON llm_embedding_index USING hnsw (signs bit_hamming_ops);

-- Work that one daemon does for all. By the clock of the server, which is the same for all of them.
CREATE TABLE tracker_leases (
    name       TEXT PRIMARY KEY,
    holder     UUID NOT NULL,
    renewed_at TIMESTAMPTZ NOT NULL,
    expires_at TIMESTAMPTZ NOT NULL
);

INSERT INTO llm_embedding_queue (decision_id)
SELECT id FROM llm_decisions WHERE prompt_embedding IS NOT NULL;
