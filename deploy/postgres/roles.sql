-- The role that a daemon with TRACKER_MIGRATE_ON_START=off needs: it adds rows and projects outcomes, and can
-- neither change nor delete what was recorded. Run it as a superuser in the daemon's database, after
-- `tracker-daemon migrate` and again after each upgrade; repeating it changes nothing.
-- The password comes last: \password tracker_writer

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracker_writer') THEN
        CREATE ROLE tracker_writer LOGIN;
    END IF;
    -- TEMPORARY: COPY fills a temporary table first.
    EXECUTE format('GRANT CONNECT, TEMPORARY ON DATABASE %I TO tracker_writer', current_database());
    -- pgvector may live in a schema of its own.
    EXECUTE (
        SELECT format('GRANT USAGE ON SCHEMA %s TO tracker_writer', extnamespace::regnamespace)
        FROM pg_extension WHERE extname = 'vector'
    );
END
$$;

GRANT USAGE ON SCHEMA public TO tracker_writer;

GRANT SELECT ON tracker_migrations, tracker_retention TO tracker_writer;
GRANT SELECT, INSERT ON trading_sessions, llm_decisions, llm_outcomes, llm_dead_letters TO tracker_writer;
GRANT UPDATE (outcome, pnl, outcome_at, outcome_sequence) ON llm_decisions TO tracker_writer;

-- The vector index, which the daemon keeps in the background, and who of several daemons does.
GRANT SELECT, INSERT, DELETE ON llm_embedding_queue TO tracker_writer;
GRANT SELECT, INSERT ON llm_embedding_index TO tracker_writer;
GRANT SELECT, INSERT, UPDATE ON tracker_leases TO tracker_writer;

-- Alerts of agents and models that succeed too rarely: what was said, and what is to be said still.
GRANT SELECT, INSERT ON llm_alerts TO tracker_writer;
GRANT UPDATE (published_at) ON llm_alerts TO tracker_writer;
