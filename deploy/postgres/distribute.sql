-- A full history on Citus: what `tracker-daemon migrate --distribute` does for a small one. With every daemon stopped,
-- as the owner of the tables, on the coordinator: psql -v ON_ERROR_STOP=1 -f distribute.sql DATABASE

BEGIN;
SELECT create_reference_table('trading_sessions');
SELECT create_distributed_table('llm_decisions', 'id');
SELECT create_distributed_table('llm_outcomes', 'decision_id', colocate_with => 'llm_decisions');
SELECT create_distributed_table('llm_embedding_queue', 'decision_id', colocate_with => 'llm_decisions');
SELECT create_distributed_table('llm_embedding_index', 'decision_id', colocate_with => 'llm_decisions');
SELECT create_distributed_table('llm_text_index', 'decision_id', colocate_with => 'llm_decisions');
SELECT create_distributed_table('llm_dead_letters', 'id', colocate_with => 'llm_decisions');
-- What was copied takes its place on the coordinator still.
SELECT truncate_local_data_after_distributing_table(table_name::regclass)
FROM unnest(ARRAY[
    'trading_sessions', 'llm_decisions', 'llm_outcomes', 'llm_embedding_queue', 'llm_embedding_index',
    'llm_text_index', 'llm_dead_letters'
]) AS table_name;
SELECT create_distributed_function('llm_searched_text(text, text)');
COMMIT;
