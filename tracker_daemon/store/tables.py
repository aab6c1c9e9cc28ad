"""The tables that batches are written to, and the SQL that fills them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from msgspec import Struct
from msgspec.structs import astuple

from tracker_daemon.messages import DeadLetter, Decision, Outcome


class Table(Struct, frozen=True):
    """A table that batches are copied into: its columns, the first fields of a record, and its key.

    `order`: what records are sorted by, lest writers side by side deadlock: in one order they only wait.
    """

    name: str
    columns: tuple[str, ...]
    key: tuple[str, ...]
    order: Callable[[Any], Any]

    def row(self, record: Struct) -> tuple[Any, ...]:
        """The values of a record in the order of the columns."""
        return astuple(record)[: len(self.columns)]

    @property
    def present(self) -> str:
        """Which of the keys are there; a parameter, an array, for each column of the key."""
        wanted = [f"{column} = ANY(${number}::uuid[])" for number, column in enumerate(self.key, start=1)]
        return f"SELECT {', '.join(self.key)} FROM {self.name} WHERE {' AND '.join(wanted)}"

    @property
    def incoming(self) -> str:
        """The temporary table that COPY fills; its name changes with the columns, for pooled sessions."""
        return f"incoming_{self.name}_{len(self.columns)}"

    @property
    def make_incoming(self) -> str:
        """Types and lengths are the table's own, so COPY already refuses what the table would."""
        return (
            f"CREATE TEMPORARY TABLE IF NOT EXISTS {self.incoming} ON COMMIT DELETE ROWS AS "
            f"SELECT {', '.join(self.columns)} FROM {self.name} WITH NO DATA"
        )

    @property
    def insert(self) -> str:
        """In the same order as `order`."""
        columns, key = ", ".join(self.columns), ", ".join(self.key)
        return (
            f"INSERT INTO {self.name} ({columns}) SELECT {columns} FROM {self.incoming} ORDER BY {key} "
            f"ON CONFLICT ({key}) DO NOTHING RETURNING {key}"
        )


def _columns(record: type[Struct], *without: str) -> tuple[str, ...]:
    return tuple(name for name in record.__struct_fields__ if name not in without)


# Integers are compared three times as fast as UUIDs.
DECISIONS: Final = Table(
    "llm_decisions",
    _columns(Decision, "first_outcome", "to_embed"),
    ("id",),
    order=lambda record: record.id.int,
)
OUTCOMES: Final = Table(
    "llm_outcomes",
    _columns(Outcome),
    ("decision_id", "event_id"),
    order=lambda record: (record.decision_id.int, record.event_id.int),
)
DEAD_LETTERS: Final = Table(
    "llm_dead_letters", _columns(DeadLetter), ("id",), order=lambda record: record.id.int
)

# The winner is the greatest (observed_at, but not later than the stream's own time; then stream sequence).
_WINNERS: Final = """
    SELECT DISTINCT ON (decision_id) decision_id, outcome, pnl, at, sequence, stream_sequence
    FROM (
        SELECT decision_id, outcome, pnl, LEAST(observed_at, received_at) AS at, stream_sequence,
               COALESCE(stream_sequence, (EXTRACT(EPOCH FROM received_at) * 1000000)::bigint) AS sequence
        FROM llm_outcomes
        WHERE decision_id = ANY($1::uuid[])
    ) event
    ORDER BY decision_id, at DESC, sequence DESC
"""

# The comparison with what is projected already makes the result independent of who comes last, also for an
# UPDATE that waited for another one's row lock with an older snapshot.
PROJECT: Final = f"""
UPDATE llm_decisions d
SET outcome = w.outcome, pnl = w.pnl, outcome_at = w.at, outcome_sequence = w.sequence
FROM ({_WINNERS}) w
WHERE d.id = w.decision_id
  AND (d.outcome_at IS NULL OR (w.at, w.sequence) > (d.outcome_at, d.outcome_sequence))
"""
UNPROJECTED: Final = f"""
SELECT d.id, w.stream_sequence
FROM llm_decisions d LEFT JOIN ({_WINNERS}) w ON w.decision_id = d.id
WHERE d.id = ANY($1::uuid[])
  AND (d.outcome, d.pnl, d.outcome_at, d.outcome_sequence)
      IS DISTINCT FROM (w.outcome, w.pnl, w.at, w.sequence)
"""

STUB_SESSIONS: Final = """
INSERT INTO trading_sessions (id)
SELECT id FROM unnest($1::uuid[]) AS wanted (id)
WHERE NOT EXISTS (SELECT FROM trading_sessions known WHERE known.id = wanted.id)
ORDER BY id
ON CONFLICT DO NOTHING
"""
# Whether the key alone decides which rows a table takes: it is there, and no trigger may change rows or keep
# them out (7: before an insert, for each row).
GUARDED: Final = """
SELECT EXISTS (
    SELECT FROM pg_index
    WHERE indrelid = $1::regclass AND indisunique AND indisvalid AND indimmediate AND indpred IS NULL
      AND $2::text[] = ARRAY(
          SELECT attname::text FROM pg_attribute WHERE attrelid = indrelid AND attnum = ANY(indkey) ORDER BY 1
      )
) AND NOT EXISTS (
    SELECT FROM pg_trigger WHERE tgrelid = $1::regclass AND tgenabled <> 'D' AND tgtype & 7 = 7
)
"""
ENQUEUE_EMBEDDINGS: Final = """
INSERT INTO llm_embedding_queue (decision_id)
SELECT unnest($1::uuid[])
ON CONFLICT DO NOTHING
"""
# So many ids that a row stays in one piece: a long array would be taken apart and stored elsewhere.
_IN_ROWS: Final = """
SELECT ($1::uuid[])[first : first + 99] AS decisions
FROM generate_series(1, cardinality($1::uuid[]), 100) AS first
"""
ENQUEUE_INDEXES: Final = f"""
WITH new AS MATERIALIZED ({_IN_ROWS}), texts AS (
    INSERT INTO llm_text_queue (decisions) SELECT decisions FROM new
)
INSERT INTO llm_situation_queue (decisions) SELECT decisions FROM new
"""
ENQUEUE_PROMPTS: Final = f"INSERT INTO llm_prompt_queue (decisions) {_IN_ROWS}"
HORIZON: Final = "SELECT horizon FROM tracker_retention"
CONTENT_HASHES: Final = "SELECT id, content_hash FROM llm_decisions WHERE id = ANY($1::uuid[])"
OUTCOMES_WAITING: Final = """
SELECT count(*) AS waiting,
       COALESCE(EXTRACT(EPOCH FROM now() - min(received_at)), 0)::float8 AS oldest_seconds
FROM llm_outcomes o
WHERE NOT EXISTS (SELECT FROM llm_decisions d WHERE d.id = o.decision_id)
"""
