"""Buffering and flushing: on rows, bytes or a timer, or (interval 0) whenever a writer is free.

Knows neither NATS nor SQL: `write` and `settle` are handed in.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING, Literal

from tracker_daemon import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from tracker_daemon.config import BatchSettings
    from tracker_daemon.messages import Delivery, Result

    Write = Callable[[Sequence[Delivery]], Awaitable[list[Result]]]
    Settle = Callable[[Sequence[Delivery], list[Result]], Awaitable[None]]

Trigger = Literal["rows", "bytes", "interval", "idle", "shutdown"]


class Buffer:
    """What waits for a flush, and the policy that says when one is due; it never looks at a clock."""

    def __init__(self, policy: BatchSettings) -> None:
        """Begin empty."""
        self._policy = policy
        self._max_bytes = policy.max_bytes
        self._beginnings = {1, policy.max_rows}
        self._waiting: deque[tuple[Delivery, int, float]] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        """Messages that wait."""
        return len(self._waiting)

    @property
    def size(self) -> int:
        """Payload bytes that wait."""
        return self._bytes

    def __iter__(self) -> Iterator[Delivery]:
        """Iterate over the messages that wait, oldest first."""
        return (delivery for delivery, _, _ in self._waiting)

    def add(self, delivery: Delivery, now: float) -> bool:
        """Append a message that came at `now` (seconds on any steady clock).

        Returns whether it is the one with which a flush, or the wait for one, begins.
        """
        before, size = self._bytes, delivery.size
        self._waiting.append((delivery, size, now))
        self._bytes = before + size
        return before < self._max_bytes <= self._bytes or len(self._waiting) in self._beginnings

    def due(self, now: float) -> Trigger | None:
        """What makes a flush due at `now`, if anything does."""
        if not self._waiting:
            return None
        if len(self._waiting) >= self._policy.max_rows:
            return "rows"
        if self._bytes >= self._max_bytes:
            return "bytes"
        if self._policy.flush_interval_seconds == 0:
            return "idle"
        return "interval" if now >= self._waiting[0][2] + self._policy.flush_interval_seconds else None

    def deadline(self) -> float | None:
        """When the oldest message, if there is one, will have waited for the whole interval."""
        return self._waiting[0][2] + self._policy.flush_interval_seconds if self._waiting else None

    def take(self) -> tuple[list[Delivery], int]:
        """Remove the oldest messages within the bounds of rows and bytes; return them and their bytes."""
        batch: list[Delivery] = []
        total = 0
        while self._waiting and len(batch) < self._policy.max_rows:
            delivery, size, _ = self._waiting[0]
            if batch and total + size > self._max_bytes:
                break
            self._waiting.popleft()
            batch.append(delivery)
            total += size
        self._bytes -= total
        return batch, total


def most_rows(policy: BatchSettings, writers: int) -> int:
    """How many messages are held at most: as many as a daemon asks the stream for."""
    # A batch for each writer, and as much again waiting, so that no writer ever waits for the stream.
    return 2 * (writers + 1) * policy.max_rows


class BatchWriter:
    """Takes messages in and gives batches to its writers; each message is settled once, or handed back."""

    def __init__(self, policy: BatchSettings, writes: Sequence[Write], settle: Settle) -> None:
        """`writes`: a callable for each writer, at work side by side; `settle` is told every result."""
        self._writes = writes
        self._settle = settle
        self._buffer = Buffer(policy)
        self._writing: list[list[Delivery]] = []
        self._writing_rows = self._writing_bytes = 0
        self._max_rows = most_rows(policy, len(writes))
        self._max_bytes = policy.max_buffered_bytes
        self._changed = asyncio.Event()
        self._closing = False
        metrics.buffered_bytes_limit.set(self._max_bytes)
        metrics.buffered_rows.set_function(self.held)
        metrics.buffered_bytes.set_function(lambda: self._writing_bytes + self._buffer.size)

    def room(self) -> tuple[int, int]:
        """Messages and payload bytes that may still be taken in; negative when overfull."""
        return self._max_rows - self.held(), self._max_bytes - self._writing_bytes - self._buffer.size

    def add(self, delivery: Delivery) -> None:
        """Take a message in; whoever calls minds the `room`."""
        if self._buffer.add(delivery, asyncio.get_running_loop().time()):
            self._changed.set()

    async def run(self) -> None:
        """Write until closed and empty; raise what a writer raises, which is always a defect."""
        try:
            async with asyncio.TaskGroup() as group:
                for write in self._writes:
                    group.create_task(self._write_batches(write))
        except ExceptionGroup as group:
            raise group.exceptions[0] from None

    def close(self) -> None:
        """Flush what is held, whatever its size, and let `run` end."""
        self._closing = True
        self._changed.set()

    def held(self) -> int:
        """Messages taken in and not written yet."""
        return len(self._buffer) + self._writing_rows

    def unsettled(self) -> list[Delivery]:
        """Every message that is still held; after `run` was cancelled they are left to the stream."""
        return [*(delivery for batch in self._writing for delivery in batch), *self._buffer]

    async def _write_batches(self, write: Write) -> None:
        while (due := await self._next_batch()) is not None:
            trigger, (batch, size) = due
            metrics.flushes.labels(trigger).inc()
            metrics.batch_rows.observe(len(batch))
            self._writing.append(batch)
            self._writing_rows += len(batch)
            self._writing_bytes += size
            with metrics.flush_seconds.time():
                results = await write(batch)
            self._writing.remove(batch)
            self._writing_rows -= len(batch)
            self._writing_bytes -= size
            await self._settle(batch, results)

    async def _next_batch(self) -> tuple[Trigger, tuple[list[Delivery], int]] | None:
        """Wait until a batch is due and take it, with its bytes; None: closed and empty."""
        while True:
            trigger = self._buffer.due(asyncio.get_running_loop().time())
            if trigger is None and self._closing:
                if not self._buffer:
                    return None
                trigger = "shutdown"
            if trigger is not None:
                return trigger, self._buffer.take()
            self._changed.clear()
            # Of all writers that wait for the timer, the first takes the batch and the others wait anew.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(self._buffer.deadline()):
                    await self._changed.wait()
