-- The vector index holds directions, in halves of floats, where it held signs, which of 256 numbers tell too little.
-- What was indexed is queued again. An index of pgvector's takes 4,000 halves; of what is longer its beginning
-- preselects.

INSERT INTO llm_embedding_queue (decision_id)
SELECT decision_id FROM llm_embedding_index
ON CONFLICT DO NOTHING;

TRUNCATE llm_embedding_index;

DROP INDEX IF EXISTS llm_embedding_index_signs;

ALTER TABLE llm_embedding_index
    DROP COLUMN signs,
    ADD COLUMN direction HALFVEC(:indexed_dimensions) NOT NULL;

COMMENT ON COLUMN llm_embedding_index.direction IS
    'l2_normalize(subvector(prompt_embedding, 1, 4000)), whose distances only preselect';

CREATE INDEX llm_embedding_index_direction ON llm_embedding_index USING hnsw (direction halfvec_cosine_ops);
