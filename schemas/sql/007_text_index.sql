-- Full-text search, beside the table of decisions and not on it, for the reason that the vector index is: what is
-- stored is queued by its transaction, and one daemon at a time moves it into the index in the background.

-- What is searched of a decision. A document of PostgreSQL's holds 1 MB, and 100,001 characters make at most 750 KB
-- of it (pairs of one-letter words with a hyphen). A slash would make one word of a pair of tickers, and what stands
-- between < and > would be left out.
CREATE FUNCTION llm_searched_text(prompt TEXT, response TEXT) RETURNS TEXT
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN translate(left(prompt, 50000) || E'\n' || left(response, 50000), '/<>', '   ');

-- The ids that one transaction has stored; at most 100 in a row, so that it stays in one piece.
CREATE TABLE llm_text_queue (
    id        BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    decisions UUID[] NOT NULL
);

CREATE TABLE llm_text_index (
    decision_id UUID PRIMARY KEY,
    document    TSVECTOR NOT NULL
);

COMMENT ON COLUMN llm_text_index.document IS 'to_tsvector(''simple'', llm_searched_text(prompt, response))';

CREATE INDEX llm_text_index_document ON llm_text_index USING gin (document);

INSERT INTO llm_text_queue (decisions)
SELECT array_agg(id)
FROM (SELECT id, (row_number() OVER (ORDER BY created_at, id) - 1) / 100 AS number FROM llm_decisions) d
GROUP BY number ORDER BY number;
