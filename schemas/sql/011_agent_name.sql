-- What 008 has in place of it.
DROP INDEX IF EXISTS llm_decisions_agent_name;

-- An index alone answers for the pages that vacuum has been at since they changed. By itself it comes when a fifth of
-- the rows is new, which may take months. A table in partitions, which may have been adopted, stores nothing itself.
DO $$
BEGIN
    IF (SELECT relkind = 'r' FROM pg_class WHERE oid = 'llm_decisions'::regclass) THEN
        ALTER TABLE llm_decisions SET (autovacuum_vacuum_insert_scale_factor = 0.02);
    END IF;
END
$$;
