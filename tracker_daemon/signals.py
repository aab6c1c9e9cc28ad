"""What operators and supervisors say to a running daemon: stop, stop at once, write despite rejections."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# SIGHUP comes when the terminal closes; nohup has it ignored.
_HANGS_UP = signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN
STOPS: Final = (signal.SIGTERM, signal.SIGINT, *((signal.SIGHUP,) if _HANGS_UP else ()))
"""What asks for the end."""


class Stop:
    """What the signals ask for: the first to drain, the second to leave at once."""

    def __init__(self) -> None:
        """Nothing asked for yet."""
        self.asked = asyncio.Event()
        self.hurried = asyncio.Event()

    def ask(self) -> None:
        """Take one signal."""
        (self.hurried if self.asked.is_set() else self.asked).set()


@contextlib.contextmanager
def heard(override: Callable[[], None]) -> Iterator[Stop]:
    """Hear `STOPS` for the length of a block; SIGUSR1 calls `override`. Afterwards they are ignored."""
    stop = Stop()
    loop = asyncio.get_running_loop()
    handlers = dict.fromkeys(STOPS, stop.ask) | {signal.SIGUSR1: override}
    for number, handler in handlers.items():
        loop.add_signal_handler(number, handler)
    try:
        yield stop
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_IGN)  # the end has begun, with an exit code of its own
