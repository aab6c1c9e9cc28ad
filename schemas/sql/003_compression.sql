-- PostgreSQL's own compression, pglz, takes two fifths of the time of an insert. So it is lz4 where the server has
-- that; where it has not, texts are stored as they are, and rows of up to half a page in one piece.
-- Holds for rows to come; what is stored already stays as it is.

DO $$
DECLARE
    lz4 BOOLEAN := (SELECT 'lz4' = ANY(enumvals) FROM pg_settings WHERE name = 'default_toast_compression');
    texts TEXT;
BEGIN
    FOREACH texts IN ARRAY '{prompt,response,context,extra}'::text[] LOOP
        IF lz4 THEN
            EXECUTE format('ALTER TABLE llm_decisions ALTER COLUMN %I SET COMPRESSION lz4', texts);
        ELSE
            EXECUTE format('ALTER TABLE llm_decisions ALTER COLUMN %I SET STORAGE EXTERNAL', texts);
        END IF;
    END LOOP;
    -- A table in partitions, which may have been adopted, stores nothing itself.
    IF NOT lz4 AND (SELECT relkind = 'r' FROM pg_class WHERE oid = 'llm_decisions'::regclass) THEN
        ALTER TABLE llm_decisions SET (toast_tuple_target = 4080);
    END IF;
END
$$;
