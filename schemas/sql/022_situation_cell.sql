-- What 021 has in place of it.
DROP INDEX IF EXISTS llm_situation_index_cell;
