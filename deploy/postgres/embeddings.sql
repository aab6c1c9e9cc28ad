-- What the writer of roles.sql needs besides where a provider makes embeddings (TRACKER_EMBEDDING_PROVIDER): it gives
-- decisions theirs. Run it like roles.sql, after that one.

GRANT DELETE ON llm_prompt_queue TO tracker_writer;
GRANT UPDATE (prompt_embedding, embedding_model) ON llm_decisions TO tracker_writer;
