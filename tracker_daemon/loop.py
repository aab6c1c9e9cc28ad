"""The daemon's event loop, which measures for how long each of its turns holds it."""

from __future__ import annotations

import asyncio
import selectors
import time
from typing import TYPE_CHECKING

from tracker_daemon import metrics

if TYPE_CHECKING:
    from selectors import SelectorKey


class _TimedSelector(selectors.DefaultSelector):
    """Between two calls of `select` lies one turn: every callback that was ready, one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self._began = time.perf_counter()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        metrics.event_loop_turn_seconds.observe([time.perf_counter() - self._began])
        ready = super().select(timeout)
        self._began = time.perf_counter()
        return ready


def timed_loop() -> asyncio.AbstractEventLoop:
    """An event loop that keeps `event_loop_turn_seconds`."""
    return asyncio.SelectorEventLoop(_TimedSelector())
