"""The replay's pace, in a time that only the test moves."""

from __future__ import annotations

import asyncio
from datetime import date
from typing import TYPE_CHECKING, Any

import pytest

from tracker_daemon.demo.replay import WINDOW, _windows
from tracker_daemon.demo.script import Message

if TYPE_CHECKING:
    from collections.abc import Iterator


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        inner: Any = self._selector  # type: ignore[attr-defined]
        select = inner.select

        def jump(timeout: float | None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        inner.select = jump

    def time(self) -> float:
        """Seconds that the timers have jumped so far."""
        return self.now


def some(count: int) -> Iterator[Message]:
    """Count messages; the pace looks at nothing in them."""
    return (Message("decision", "decisions", str(n), b"", date(2031, 7, 9)) for n in range(count))


def paced(count: int, rate: float | None, pauses: dict[int, float]) -> list[tuple[float, int]]:
    """Return when each window came and how many messages it held; after the n-th the reader pauses."""

    async def read() -> list[tuple[float, int]]:
        clock = asyncio.get_running_loop().time
        windows = []
        async for window in _windows(some(count), rate):
            windows.append((clock(), len(window)))
            await asyncio.sleep(pauses.get(len(windows), 0))
        return windows

    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(read())


def test_without_a_rate_windows_are_full_at_once() -> None:
    assert paced(2 * WINDOW + 5, None, {}) == [(0.0, WINDOW), (0.0, WINDOW), (0.0, 5)]


@pytest.mark.parametrize("rate", [0.5, 7.0, 1_000.0])
def test_a_rate_publishes_each_message_when_it_is_due(rate: float) -> None:
    windows = paced(200, rate, {})
    sent = 0
    for at, count in windows:
        sent += count
        assert at == pytest.approx(sent / rate, abs=1e-6)
    assert sent == 200


def test_a_slow_stream_delays_only_what_was_due_meanwhile() -> None:
    """Half a second lost at the tenth window is made up in the next one: the end comes on time."""
    windows = paced(200, 100.0, {10: 0.5})
    assert windows[10][0] == pytest.approx(0.6)
    assert windows[10][1] == pytest.approx(50, abs=1)
    assert windows[-1][0] == pytest.approx(2.0)


def test_catching_up_stays_within_the_window() -> None:
    windows = paced(2_000, 100.0, {1: 15.0})
    assert max(count for _, count in windows) == WINDOW
    assert windows[-1][0] == pytest.approx(20.0)
