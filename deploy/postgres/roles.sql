-- Three roles, each with no more than it needs:
--   tracker_owner   migrates, and owns the tables; the daemon never sees its password
--   tracker_writer  the daemon with TRACKER_MIGRATE_ON_START=off: adds rows and projects outcomes, and can neither
--                   change nor delete what was recorded
--   tracker_reader  dashboards and query commands: reads the records
-- Run it as a superuser in the daemon's database: before the first `tracker-daemon migrate`, after it, and after
-- each upgrade's; repeating it changes nothing. The roles can log in once they have a password: \password tracker_owner

-- Only a superuser may, and the owner's first migration needs it.
CREATE EXTENSION IF NOT EXISTS vector;

DO $$
DECLARE
    role TEXT;
BEGIN
    FOREACH role IN ARRAY '{tracker_owner,tracker_writer,tracker_reader}'::text[] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role) THEN
            EXECUTE format('CREATE ROLE %I', role);
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS', role);
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), role);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', role);
        -- pgvector may live in a schema of its own.
        EXECUTE (
            SELECT format('GRANT USAGE ON SCHEMA %s TO %I', extnamespace::regnamespace, role)
            FROM pg_extension WHERE extname = 'vector'
        );
    END LOOP;
    -- By default everyone may make temporary tables and large objects (before PostgreSQL 15 any table), and fill
    -- the disk.
    EXECUTE format('REVOKE TEMPORARY ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE EXECUTE ON FUNCTION lo_creat(integer), lo_create(oid), lo_from_bytea(oid, bytea) FROM PUBLIC;
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    -- COPY fills a temporary table first; the owner replays dead letters.
    EXECUTE format('GRANT TEMPORARY ON DATABASE %I TO tracker_writer, tracker_owner', current_database());
    GRANT CREATE ON SCHEMA public TO tracker_owner;

    IF to_regclass('tracker_migrations') IS NULL THEN
        RAISE NOTICE 'no tables yet: run tracker-daemon migrate as tracker_owner, then this file again';
        RETURN;
    END IF;
    GRANT SELECT ON tracker_migrations, tracker_retention TO tracker_writer, tracker_reader;
    GRANT SELECT ON trading_sessions, llm_decisions, llm_outcomes, llm_dead_letters TO tracker_writer, tracker_reader;
    GRANT INSERT ON trading_sessions, llm_decisions, llm_outcomes, llm_dead_letters TO tracker_writer;
    GRANT UPDATE (outcome, pnl, outcome_at, outcome_sequence) ON llm_decisions TO tracker_writer;

    -- What dashboards count by.
    GRANT SELECT ON llm_monitoring TO tracker_reader;

    -- The indexes, which the daemon keeps in the background, and who of several daemons does. A situation gets a new
    -- place whenever decisions have multiplied.
    GRANT SELECT ON llm_embedding_queue, llm_embedding_index, llm_text_queue, llm_text_index, llm_prompt_queue,
        llm_situation_queue, llm_situation_axes, llm_situation_cells, llm_situation_index
        TO tracker_writer, tracker_reader;
    GRANT INSERT, DELETE ON llm_embedding_queue, llm_text_queue, llm_situation_queue TO tracker_writer;
    GRANT INSERT ON llm_embedding_index, llm_text_index, llm_prompt_queue, llm_situation_axes, llm_situation_cells,
        llm_situation_index TO tracker_writer;
    GRANT UPDATE ON llm_situation_cells, llm_situation_index TO tracker_writer;
    GRANT UPDATE (swept_at) ON llm_situation_axes TO tracker_writer;
    GRANT SELECT, INSERT, UPDATE ON tracker_leases TO tracker_writer;

    -- Alerts of agents and models that succeed too rarely: what was said, and what is to be said still.
    GRANT SELECT ON llm_alerts TO tracker_writer, tracker_reader;
    GRANT INSERT ON llm_alerts TO tracker_writer;
    GRANT UPDATE (published_at) ON llm_alerts TO tracker_writer;

    -- What is a large difference between two situations, as it was learnt.
    GRANT SELECT ON llm_scales TO tracker_writer, tracker_reader;
    GRANT INSERT ON llm_scales TO tracker_writer;

    -- Which model decides: the daemon benches and promotes, whoever owns the tables sets policies, pins and switches.
    GRANT SELECT ON llm_selection_events TO tracker_writer, tracker_reader;
    GRANT INSERT ON llm_selection_events TO tracker_writer;

    -- What is compared: the owner begins and stops it, and agents are told their arms.
    GRANT SELECT ON llm_experiments TO tracker_writer, tracker_reader;

    -- Citus locks the copies of a table for INSERT … ON CONFLICT, which takes a right to more than inserting; and it
    -- numbers by itself the rows that it inserts into the coordinator's tables from all nodes.
    IF to_regclass('pg_dist_partition') IS NOT NULL THEN
        GRANT UPDATE ON trading_sessions TO tracker_writer;
        GRANT USAGE ON SEQUENCE llm_text_queue_id_seq, llm_situation_queue_id_seq, llm_prompt_queue_id_seq
            TO tracker_writer;
    END IF;
END
$$;

-- A panel that asks too much is not to hold the server up, nor the vacuum of the tables.
ALTER ROLE tracker_reader SET statement_timeout = '30s';
