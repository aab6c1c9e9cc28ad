-- The role that dashboards read with: everything of the daemon's, prompts and payloads included, and no change.
-- Run it as a superuser in the daemon's database, before the first migration or after; repeating it changes
-- nothing. The password comes last: \password tracker_reader

DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'tracker_reader') THEN
        CREATE ROLE tracker_reader LOGIN;
    END IF;
    EXECUTE format('GRANT CONNECT ON DATABASE %I TO tracker_reader', current_database());
    -- Whoever owns the database migrates: the tables that a migration will make are read too.
    EXECUTE (
        SELECT format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT SELECT ON TABLES TO tracker_reader',
            pg_get_userbyid(datdba)
        )
        FROM pg_database WHERE datname = current_database()
    );
END
$$;

GRANT USAGE ON SCHEMA public TO tracker_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO tracker_reader;

-- A panel that asks too much is not to hold the server up, nor the vacuum of the tables.
ALTER ROLE tracker_reader SET statement_timeout = '30s';
