-- Gives tracker_reader the password of psql's environment, READER_PASSWORD: for docker-compose.yml.
\set ON_ERROR_STOP on
\getenv password READER_PASSWORD
ALTER ROLE tracker_reader PASSWORD :'password';
