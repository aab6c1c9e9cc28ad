"""What is said of a DSN, and of what a server refuses."""

from __future__ import annotations

import asyncpg
import pytest

from tracker_daemon.postgres import Rejected, server_of, translated


@pytest.mark.parametrize(
    ("dsn", "said"),
    [
        ("postgresql://me:s3cret@db.internal:5433/tracker?sslmode=require", "db.internal:5433/tracker"),
        ("postgresql://me@/tracker?host=/run/postgresql", "/run/postgresql/tracker"),
        ("postgresql:///tracker", "the default host/tracker"),
    ],
)
def test_a_server_is_named_without_who_logs_in(dsn: str, said: str) -> None:
    assert server_of(dsn) == said


@pytest.mark.parametrize(
    ("message", "said"),
    [
        (
            'new row for relation "llm_decisions_102010" violates check constraint "sane_102010"',
            "SQLSTATE 23514 on llm_decisions, sane",
        ),
        ('duplicate key value violates unique constraint "mine_102010"', "SQLSTATE 23514 on mine"),
        (
            'null value in column "symbol" of relation "llm_decisions_102010" violates not-null constraint',
            "SQLSTATE 23514 on llm_decisions, symbol",
        ),
        ('a trigger says "secret_102010"', "SQLSTATE 23514"),
    ],
)
def test_what_a_node_of_citus_refuses_is_named_as_the_coordinator_knows_it(message: str, said: str) -> None:
    with pytest.raises(Rejected) as refused, translated():
        raise asyncpg.CheckViolationError(message)
    assert refused.value.safely == said
