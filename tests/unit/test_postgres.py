"""What is said of a DSN."""

from __future__ import annotations

import pytest

from tracker_daemon.postgres import server_of


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
