-- For a new volume of the compose file, where the daemon migrates as the database's owner after roles.sql has run:
-- the tables that the owner makes from now on are read by tracker_reader, prompts and payloads included.

DO $$
BEGIN
    EXECUTE (
        SELECT format(
            'ALTER DEFAULT PRIVILEGES FOR ROLE %I IN SCHEMA public GRANT SELECT ON TABLES TO tracker_reader',
            pg_get_userbyid(datdba)
        )
        FROM pg_database WHERE datname = current_database()
    );
END
$$;

GRANT SELECT ON ALL TABLES IN SCHEMA public TO tracker_reader;
