"""One yardstick for all: what a run took, from the first delivery to the last acknowledgement."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

from msgspec import Struct
from nats.js.errors import NotFoundError

from tests.bench.stage import STREAM

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.stage import Stage

POLL_SECONDS: Final = 0.01
MAX_POLL_SECONDS: Final = 0.2
"""Who acknowledges out of order looks as if it had long to go, until it is done."""
PATIENCE_SECONDS: Final = 600.0


class Drained(Struct):
    """One run: messages, seconds of wall time, CPU seconds of each party (`client`, `nats`, `postgres`)."""

    messages: int
    seconds: float
    cpu: dict[str, float]

    @property
    def rate(self) -> float:
        """Messages per second."""
        return self.messages / self.seconds

    def micros(self, party: str) -> float:
        """Microseconds of CPU that a message cost a party."""
        return self.cpu.get(party, 0.0) / self.messages * 1e6


class Meter:
    """Wall and CPU time from `start` to `stop`; `client` tells the CPU seconds of who competes."""

    def __init__(self, stage: Stage, client: Callable[[], float]) -> None:
        """Keep whom to measure."""
        self._stage = stage
        self._client = client

    def start(self) -> None:
        """Begin."""
        self._cpu = self._clocks()
        self._at = time.perf_counter()

    def stop(self, messages: int) -> Drained:
        """End, and tell what was used for so many messages."""
        seconds = time.perf_counter() - self._at
        now = self._clocks()
        return Drained(messages, seconds, {party: now[party] - self._cpu[party] for party in now})

    def _clocks(self) -> dict[str, float]:
        return {"client": self._client(), **self._stage.cpu()}


async def drained(
    stage: Stage, durable: str, messages: int, client: Callable[[], float], alive: Callable[[], None]
) -> Drained:
    """Watch a durable consumer until it has acknowledged so many; `alive` raises if that cannot be."""
    meter, began = Meter(stage, client), 0.0
    deadline = time.monotonic() + PATIENCE_SECONDS
    while (now := time.monotonic()) < deadline:
        alive()
        delivered, floor = await _progress(stage, durable)
        if delivered and not began:
            meter.start()
            began = now
        if floor >= messages:
            return meter.stop(messages)
        # Often only near the end: each look takes time from whom it looks at.
        left = (now - began) * (messages - floor) / floor if floor else 0.0
        await asyncio.sleep(min(max(POLL_SECONDS, left / 4), MAX_POLL_SECONDS))
    raise RuntimeError(f"{durable} has not acknowledged {messages} messages within {PATIENCE_SECONDS:.0f} s")


async def _progress(stage: Stage, durable: str) -> tuple[int, int]:
    """Deliveries so far, and the stream sequence up to which all is acknowledged; zeros before it is made."""
    try:
        info = await stage.client.jetstream(timeout=60).consumer_info(STREAM, durable)
    except NotFoundError:
        return 0, 0
    assert info.delivered is not None
    assert info.ack_floor is not None
    return info.delivered.consumer_seq, info.ack_floor.stream_seq
