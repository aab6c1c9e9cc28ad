-- What the writer of roles.sql needs besides where the daemon prunes (TRACKER_RETENTION_OLDER_THAN_DAYS): it can
-- delete then what was recorded, though still not rewrite it. Run it like roles.sql, after that one.

GRANT UPDATE (horizon) ON tracker_retention TO tracker_writer;
GRANT DELETE ON llm_decisions, llm_outcomes, llm_dead_letters, llm_embedding_index, llm_text_index,
    llm_situation_index, llm_alerts TO tracker_writer;
