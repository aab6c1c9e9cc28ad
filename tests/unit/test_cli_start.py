"""What a command does not need it does not import: that is most of the time that a short one takes."""

from __future__ import annotations

import subprocess
import sys

import pytest

TELL = """
import sys, tracker_daemon.cli.app
{more}
print(*{{name.partition(".")[0] for name in sys.modules}})
"""


@pytest.mark.parametrize(
    ("module", "spared"),
    [
        ("", {"aiohttp", "asyncpg", "nats", "numpy", "prometheus_client", "pydantic"}),
        ("migrate", {"aiohttp", "nats", "numpy"}),
        ("dead_letters", {"aiohttp", "nats", "numpy"}),
        ("stats", {"aiohttp", "nats", "prometheus_client"}),
        ("embed", {"aiohttp", "nats"}),
    ],
)
def test_a_command_leaves_out_what_others_need(module: str, spared: set[str]) -> None:
    more = f"import tracker_daemon.cli.{module}" if module else ""
    told = subprocess.run(
        [sys.executable, "-c", TELL.format(more=more)], stdout=subprocess.PIPE, text=True, check=True
    )
    assert "typer" in told.stdout.split()
    assert not spared & set(told.stdout.split())
