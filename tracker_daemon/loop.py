"""The daemon's event loop, which measures each of its turns, by the clock and in CPU time."""

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
        self._begin()

    def _begin(self) -> None:
        self._began, self._cpu_began = time.perf_counter(), time.thread_time()

    def select(self, timeout: float | None = None) -> list[tuple[SelectorKey, int]]:
        metrics.event_loop_turn_seconds.observe([time.perf_counter() - self._began])
        metrics.event_loop_turn_cpu_seconds.observe([time.thread_time() - self._cpu_began])
        ready = super().select(timeout)
        self._begin()
        return ready


def timed_loop() -> asyncio.AbstractEventLoop:
    """An event loop that keeps `event_loop_turn_seconds` and `event_loop_turn_cpu_seconds`."""
    return asyncio.SelectorEventLoop(_TimedSelector())
