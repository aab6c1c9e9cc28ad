"""The tables that raw COPY fills, and rows made ready for it."""

from __future__ import annotations

import contextlib
import struct
import uuid
from datetime import datetime
from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

import orjson
from msgspec import Struct

from tests.bench.rows import DIMENSIONS, SESSIONS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import asyncpg


class Target(Struct, frozen=True):
    """A table and the columns of it that are filled."""

    name: str
    columns: tuple[str, ...]

    def row(self, payload: bytes) -> tuple[Any, ...]:
        """The values of a decision, as asyncpg wants them, in the order of the columns."""
        fields = orjson.loads(payload)
        for name, convert in _CONVERSIONS.items():
            if fields.get(name) is not None:
                fields[name] = convert(fields[name])
        fields["content_hash"] = sha256(payload).digest()
        return tuple([fields.get(column) for column in self.columns])


def _vector(numbers: list[float]) -> bytes:
    """Lay numbers out as pgvector reads them: dimension, an unused word, float32s."""
    return struct.pack(f">HH{len(numbers)}f", len(numbers), 0, *numbers)


_CONVERSIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "id": uuid.UUID,
    "session_id": uuid.UUID,
    "created_at": datetime.fromisoformat,
    "confidence": lambda number: Decimal(str(number)),
    "cost_usd": lambda number: Decimal(str(number)),
    "context": lambda value: orjson.dumps(value).decode(),
    "prompt_embedding": _vector,
}

SEED: Final = Target(
    "seed_decisions",
    (
        *("id", "session_id", "decision_type", "symbol", "prompt", "prompt_embedding", "response", "model"),
        *("tokens_used", "latency_ms", "outcome", "pnl", "context", "agent_name", "confidence", "created_at"),
    ),
)
SHIPPED: Final = Target(
    "llm_decisions",
    (
        *("id", "session_id", "agent_name", "decision_type", "symbol", "prompt", "prompt_embedding"),
        *("response", "model", "tokens_used", "latency_ms", "context", "confidence", "created_at", "action"),
        *("cost_usd", "extra", "experiment", "variant", "propensity", "embedding_model", "content_hash"),
    ),
)

_MAKE_SEED: Final = f"""
CREATE TABLE seed_decisions (
    id UUID PRIMARY KEY DEFAULT gen_random_uuid(),
    session_id UUID REFERENCES trading_sessions (id),
    decision_type VARCHAR(50) NOT NULL,
    symbol VARCHAR(20) NOT NULL,
    prompt TEXT NOT NULL,
    prompt_embedding vector({DIMENSIONS}),
    response TEXT NOT NULL,
    model VARCHAR(100) NOT NULL,
    tokens_used INTEGER,
    latency_ms INTEGER,
    outcome VARCHAR(20),
    pnl DECIMAL(20, 8),
    context JSONB,
    agent_name VARCHAR(100) NOT NULL,
    confidence DECIMAL(5, 4),
    created_at TIMESTAMPTZ DEFAULT now()
);
CREATE INDEX ON seed_decisions (session_id);
CREATE INDEX ON seed_decisions (symbol);
CREATE INDEX ON seed_decisions (decision_type);
CREATE INDEX ON seed_decisions (outcome);
CREATE INDEX ON seed_decisions (agent_name);
CREATE INDEX ON seed_decisions (created_at);
"""


async def make(connection: asyncpg.Connection) -> None:
    """Make the seed's table beside the shipped ones, and the sessions that decisions belong to."""
    await connection.execute(_MAKE_SEED)
    await connection.executemany("INSERT INTO trading_sessions (id) VALUES ($1)", [(s,) for s in SESSIONS])


async def empty(connection: asyncpg.Connection) -> None:
    """Empty every table that a run fills."""
    names = await connection.fetch(
        "SELECT quote_ident(tablename) AS name FROM pg_tables "
        "WHERE schemaname = current_schema() AND tablename LIKE ANY ('{llm\\_%,seed\\_%}')"
    )
    await connection.execute(f"TRUNCATE {', '.join(row['name'] for row in names)}")


@contextlib.asynccontextmanager
async def without_indexes(connection: asyncpg.Connection, table: str) -> AsyncIterator[None]:
    """Fill a table without its indexes, which are made again afterwards: sooner done, and the same."""
    keys = await connection.fetch(
        "SELECT quote_ident(conname) AS name, pg_get_constraintdef(oid) AS definition FROM pg_constraint "
        "WHERE conrelid = $1::regclass AND contype = 'p'",
        table,
    )
    for key in keys:
        await connection.execute(f"ALTER TABLE {table} DROP CONSTRAINT {key['name']}")
    others = await connection.fetch(
        "SELECT indexrelid::regclass::text AS name, pg_get_indexdef(indexrelid) AS definition FROM pg_index "
        "WHERE indrelid = $1::regclass",
        table,
    )
    for index in others:
        await connection.execute(f"DROP INDEX {index['name']}")
    yield
    for key in keys:
        await connection.execute(f"ALTER TABLE {table} ADD CONSTRAINT {key['name']} {key['definition']}")
    for index in others:
        await connection.execute(index["definition"])


async def exists(connection: asyncpg.Connection, table: str) -> bool:
    """Whether this schema has a table."""
    found: bool = await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", table)
    return found


async def ready_for_copy(connection: asyncpg.Connection) -> None:
    """Let a connection copy vectors that are bytes already."""
    await connection.set_type_codec("vector", encoder=bytes, decoder=bytes, format="binary")
