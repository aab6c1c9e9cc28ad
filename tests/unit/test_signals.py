"""What is heard of signals, and for how long."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

_ENDING = """
import asyncio, signal
from tracker_daemon.signals import heard
async def main():
    with heard(lambda: None) as stop:
        signal.raise_signal(signal.SIGTERM)
        await stop.asked.wait()
    signal.raise_signal(signal.{name})
asyncio.run(main())
signal.raise_signal(signal.{name})
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_a_signal_after_the_end_has_begun_changes_no_exit_code(number: signal.Signals) -> None:
    """Servers may still have to be stopped, and the daemon has said how it ended."""
    ended = subprocess.run([sys.executable, "-c", _ENDING.format(name=number.name)], check=False)
    assert ended.returncode == 0
