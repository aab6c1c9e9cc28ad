"""The queue alone, before a side that takes, or fails, whatever it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tracker_daemon.client.outbox import BATCH_BYTES, BATCH_MESSAGES, Outbox
from tracker_daemon.errors import TrackerError
from tracker_daemon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Sequence


class Sink:
    """Takes everything, and fails once where it has a defect."""

    def __init__(self, defect: Exception | None = None) -> None:
        """Begin empty."""
        self.batches: list[list[int]] = []
        self._defect = defect

    async def send(self, messages: Sequence[Message]) -> list[TrackerError | None]:
        if (defect := self._defect) is not None:
            self._defect = None
            raise defect
        self.batches.append([len(message.payload) for message in messages])
        return [None] * len(messages)

    async def close(self) -> None:
        """Have nothing to give up."""


def message(size: int) -> Message:
    return Message("llm.decisions", b"x" * size, None, None, 0)


async def test_a_batch_is_bounded_in_messages_and_bytes_and_nothing_changes_places() -> None:
    side = Sink()
    outbox = Outbox(side, 64 << 20)
    sizes = [*range(BATCH_MESSAGES + 1), BATCH_BYTES, BATCH_BYTES + 1, 1, BATCH_BYTES // 2, BATCH_BYTES // 2]
    for size in sizes:
        outbox.put(message(size))
    await outbox.flush()
    assert [size for batch in side.batches for size in batch] == sizes
    assert all(len(batch) <= BATCH_MESSAGES for batch in side.batches)
    assert all(len(batch) == 1 or sum(batch) <= BATCH_BYTES for batch in side.batches)
    assert len(side.batches) == 6
    await outbox.close(1)


async def test_its_bound_is_in_bytes_that_come_free_again() -> None:
    outbox = Outbox(Sink(), 100)
    for _ in range(3):
        kept, dropped = outbox.put(message(100)), outbox.put(message(1))
        await outbox.flush()
        assert kept.outcome.result() is None
        assert "queue is full (100 bytes)" in str(dropped.outcome.result())
    assert outbox.dropped == 3
    await outbox.close(1)


async def test_a_defect_costs_one_batch_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    outbox = Outbox(Sink(ZeroDivisionError()), 100)
    lost = outbox.put(message(1))
    with pytest.raises(TrackerError, match="a defect of the tracker: ZeroDivisionError"):
        await outbox.confirm(lost)
    await outbox.confirm(outbox.put(message(1)))
    assert outbox.dropped == 1
    assert "a defect of the tracker" in caplog.text
    await outbox.close(1)
