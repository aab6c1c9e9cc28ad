-- Where a provider of embeddings is set, a transaction that stores decisions queues those that bring none, and one
-- daemon at a time has them made. The ids that one transaction has stored; at most 100 in a row, so that it stays
-- in one piece.

CREATE TABLE llm_prompt_queue (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decisions UUID[] NOT NULL
);
