"""Messages on their way: a bounded queue, handed over in the background for as long as it takes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Final, NamedTuple

import tenacity

from tracker_daemon.errors import TrackerError, Unavailable

if TYPE_CHECKING:
    from tracker_daemon.client.side import Side
    from tracker_daemon.messages import Message

# Not structlog: this runs in other people's programs, and goes where their lines go.
log = logging.getLogger(__name__)

BATCH_MESSAGES: Final = 256
BATCH_BYTES: Final = 1 << 20
CONFIRM_SECONDS: Final = 10.0
RETRY_CAP_SECONDS: Final = 5.0


class Entry(NamedTuple):
    """A message, its bytes when it came, and what became of it: an error, or None once it is safe."""

    message: Message
    size: int
    outcome: asyncio.Future[TrackerError | None]


class Outbox:
    """Takes messages at once, or drops them, and hands them over in their order."""

    def __init__(self, side: Side, max_bytes: int) -> None:
        """Keep at most so many payload bytes; nothing runs until there is a message."""
        self._side = side
        self._max_bytes = max_bytes
        self._entries: deque[Entry] = deque()
        self._bytes = 0
        self._work: asyncio.Task[None] | None = None
        self._closed = False
        self._trouble: str | None = None
        self._dropping = False
        self.dropped = 0
        """Messages that were not recorded: no room, refused, or left at the end."""

    def put(self, message: Message) -> Entry:
        """Take a message, or drop it where there is no room; never wait."""
        entry = Entry(message, len(message.payload), asyncio.get_running_loop().create_future())
        if self._closed:
            self._drop(Unavailable("the tracker is closed"), entry)
        elif self._bytes + entry.size > self._max_bytes:
            self._drop(Unavailable(f"the queue is full ({self._max_bytes} bytes)"), entry)
        else:
            self._entries.append(entry)
            self._bytes += entry.size
            if self._work is None or self._work.done():
                self._work = asyncio.create_task(self._hand_over())
                self._work.add_done_callback(self._ended)
        return entry

    def drop(self, error: TrackerError) -> None:
        """Count a message that never came to be, and say why."""
        self.dropped += 1
        if not self._dropping:
            self._dropping = True
            log.warning("a decision or outcome is not recorded, and others may follow: %s", error)

    async def confirm(self, entry: Entry) -> None:
        """Return once a message is safe; raise why it is not, `Unavailable` if it still waits."""
        await asyncio.wait({entry.outcome}, timeout=CONFIRM_SECONDS)
        if not entry.outcome.done():
            raise Unavailable(
                f"not confirmed within {CONFIRM_SECONDS:g} s ({self._trouble or 'no answer yet'}): "
                "it stays in the queue, and is tried again"
            )
        if error := entry.outcome.result():
            raise error

    async def flush(self) -> None:
        """Return once everything that was put before is safe, or dropped."""
        if self._entries:
            await asyncio.wait([entry.outcome for entry in self._entries])

    async def close(self, seconds: float) -> None:
        """Flush for so long, drop what is left then, and close the side."""
        self._closed = True
        try:
            async with asyncio.timeout(seconds):
                await self.flush()
        except TimeoutError:
            if self._work is not None:
                self._work.cancel()
        await self._side.close()
        if self._work is not None:
            await asyncio.wait({self._work})

    async def _hand_over(self) -> None:
        retrying = tenacity.AsyncRetrying(
            retry=tenacity.retry_if_exception_type(Unavailable),
            wait=tenacity.wait_random_exponential(multiplier=0.1, max=RETRY_CAP_SECONDS),
            before_sleep=self._after_failure,
        )
        while self._entries:
            # They stay in the queue, in their places, until it is known what became of them.
            batch = self._batch()
            await retrying(self._attempt, batch)
            for _ in batch:
                self._take()
            self._after_success()

    async def _attempt(self, batch: list[Entry]) -> None:
        """Hand over what is left of a batch; raise `Unavailable` if some of it is left still."""
        left = [entry for entry in batch if not entry.outcome.done()]
        try:
            errors = await self._side.send([entry.message for entry in left])
        except Unavailable:
            raise
        except Exception as defect:
            # Whatever it is: the agent goes on, and so does the queue.
            log.exception("a defect of the tracker")
            errors = [TrackerError(f"a defect of the tracker: {type(defect).__name__}")] * len(left)
        for entry, error in zip(left, errors, strict=True):
            if error is None:
                entry.outcome.set_result(None)
            elif not isinstance(error, Unavailable):
                self._drop(error, entry)
        if again := [error for error in errors if isinstance(error, Unavailable)]:
            raise again[0]

    def _batch(self) -> list[Entry]:
        """The next messages, as many as a slow connection can take before their acks are overdue."""
        batch: list[Entry] = []
        room = BATCH_BYTES
        for entry in islice(self._entries, BATCH_MESSAGES):
            room -= entry.size
            if batch and room < 0:
                break
            batch.append(entry)
        return batch

    def _take(self) -> Entry:
        entry = self._entries.popleft()
        self._bytes -= entry.size
        return entry

    def _drop(self, error: TrackerError, entry: Entry) -> None:
        if not entry.outcome.done():
            entry.outcome.set_result(error)
            self.drop(error)

    def _ended(self, work: asyncio.Task[None]) -> None:
        """Drop what is left where the work was cancelled: by `close`, or by an event loop that ends."""
        if work.cancelled():
            how = "was closed before" if self._closed else "was not closed before its event loop ended"
            error = Unavailable(f"the tracker {how} ({self._trouble or 'no answer yet'})")
            while self._entries:
                self._drop(error, self._take())

    def _after_success(self) -> None:
        if self._trouble is not None:
            log.info("decisions are recorded again")
            self._trouble = None
        if self._dropping and not self._entries:
            log.warning("%d decisions or outcomes were not recorded so far", self.dropped)
            self._dropping = False

    async def _after_failure(self, retry: tenacity.RetryCallState) -> None:
        error = retry.outcome.exception() if retry.outcome else None
        if self._trouble is None:
            log.warning("decisions wait to be recorded: %s", error)
        self._trouble = str(error)
