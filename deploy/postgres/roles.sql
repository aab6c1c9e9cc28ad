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
END
$$;

GRANT USAGE ON SCHEMA public TO tracker_writer;

GRANT SELECT ON tracker_migrations TO tracker_writer;
GRANT SELECT, INSERT ON trading_sessions, llm_decisions, llm_outcomes, llm_dead_letters TO tracker_writer;
GRANT UPDATE (outcome, pnl, outcome_at, outcome_sequence) ON llm_decisions TO tracker_writer;
