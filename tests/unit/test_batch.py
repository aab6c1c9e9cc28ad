"""Batches: what makes a flush due, how big they are, and each message settled once, after its write."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import delivery, message
from tracker_daemon import metrics
from tracker_daemon.batch import BatchWriter, Buffer
from tracker_daemon.config import BatchSettings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Sequence

    from tracker_daemon.messages import Delivery, Result

NEVER = 3600.0
"""An interval in seconds that no test lives to see."""


def policy(**fields: Any) -> BatchSettings:
    bounds = {"max_rows": 3, "max_bytes": 100, "flush_interval_seconds": NEVER, "max_buffered_bytes": 1000}
    return BatchSettings(**(bounds | fields))


def sized(*sizes: int) -> list[Delivery]:
    """Deliveries of so many payload bytes; what they say does not matter here."""
    return [delivery(message(b"x" * size)) for size in sizes]


# The buffer, which never looks at a clock


def filled(sizes: Iterable[int], **fields: Any) -> Buffer:
    """A buffer whose first message came at 10 s, and each further one a second later."""
    buffer = Buffer(policy(**fields))
    for second, item in enumerate(sized(*sizes), 10):
        buffer.add(item, second)
    return buffer


@pytest.mark.parametrize("interval", [0, 5])
def test_nothing_is_due_while_nothing_waits(interval: float) -> None:
    buffer = filled([], flush_interval_seconds=interval)
    assert buffer.due(1e9) is None
    assert buffer.deadline() is None
    assert buffer.take() == ([], 0)


@pytest.mark.parametrize(
    ("sizes", "now", "trigger"),
    [
        ([1, 1], 12, None),
        ([1, 1, 1], 12, "rows"),
        ([1, 1, 1, 1], 12, "rows"),
        ([50, 49], 12, None),
        ([50, 50], 12, "bytes"),
        ([101], 12, "bytes"),
        ([1, 1, 98], 12, "rows"),
        ([1, 1], 14.999, None),
        ([1, 1], 15, "interval"),
        ([1, 1], 99, "interval"),
        ([1, 1, 1], 99, "rows"),
        ([100], 99, "bytes"),
    ],
)
def test_a_flush_is_due_by_rows_then_bytes_then_the_age_of_the_oldest(
    sizes: list[int], now: float, trigger: str | None
) -> None:
    buffer = filled(sizes, flush_interval_seconds=5)
    assert buffer.due(now) == trigger
    assert buffer.deadline() == 15


@pytest.mark.parametrize(("sizes", "trigger"), [([1], "idle"), ([1, 1, 1], "rows"), ([100], "bytes")])
def test_without_an_interval_whatever_waits_is_due(sizes: list[int], trigger: str) -> None:
    assert filled(sizes, flush_interval_seconds=0).due(0) == trigger


def test_after_a_flush_the_next_oldest_message_sets_the_deadline() -> None:
    buffer = filled([1, 1, 1, 1], flush_interval_seconds=5)
    buffer.take()
    assert buffer.deadline() == 18
    assert buffer.due(17.9) is None
    assert buffer.due(18) == "interval"


@pytest.mark.parametrize("sizes", [[100, 1], [60, 60], [500, 99]])
def test_after_a_flush_only_the_bytes_that_still_wait_count(sizes: list[int]) -> None:
    buffer = filled(sizes, flush_interval_seconds=5)
    assert buffer.due(11) == "bytes"
    assert len(buffer.take()[0]) == 1
    assert buffer.due(11) is None


@pytest.mark.parametrize(
    ("sizes", "begins"),
    [
        ([1, 1, 1, 1], [True, False, True, False]),
        ([60, 30, 10, 1], [True, False, True, False]),
        ([100, 1], [True, False]),
    ],
    ids=["rows", "bytes", "at once"],
)
def test_add_tells_with_which_message_a_wait_or_a_flush_begins(sizes: list[int], begins: list[bool]) -> None:
    buffer = Buffer(policy(flush_interval_seconds=5))
    assert [buffer.add(item, 10) for item in sized(*sizes)] == begins


@given(
    sizes=st.lists(st.integers(0, 150), max_size=30),
    max_rows=st.integers(1, 5),
    max_bytes=st.integers(1, 120),
)
def test_batches_are_the_messages_in_order_within_both_bounds(
    sizes: list[int], max_rows: int, max_bytes: int
) -> None:
    """Only a message too big by itself exceeds the bound, and goes alone; no batch is needlessly small."""
    buffer = filled(sizes, max_rows=max_rows, max_bytes=max_bytes)
    waiting = list(buffer)
    batches = []
    while buffer:
        batch, size = buffer.take()
        assert size == total(batch)
        batches.append(batch)
        assert list(buffer) == waiting[sum(map(len, batches)) :]
    assert [item for batch in batches for item in batch] == waiting
    for batch in batches:
        assert 1 <= len(batch) <= max_rows
        assert len(batch) == 1 or total(batch) <= max_bytes
    for batch, after in pairwise(batches):
        assert len(batch) == max_rows or total(batch) + after[0].size > max_bytes


def total(batch: Iterable[Delivery]) -> int:
    """The payload bytes of a batch."""
    return sum(item.size for item in batch)


# Writers, which finish when the test says so


class Desk:
    """A batch writer whose writes end when a test ends them, with notes of all that happens."""

    def __init__(self, *, writers: int = 1, **fields: Any) -> None:
        self.begun: list[list[Delivery]] = []
        self.unfinished: list[asyncio.Future[list[Result]]] = []
        self.finished: list[list[Delivery]] = []
        self.settled: list[tuple[list[Delivery], list[Result]]] = []
        self._changed = asyncio.Condition()
        self.batches = BatchWriter(policy(**fields), [self._write] * writers, self._settle)

    async def _write(self, batch: Sequence[Delivery]) -> list[Result]:
        end: asyncio.Future[list[Result]] = asyncio.get_running_loop().create_future()
        self.begun.append(list(batch))
        self.unfinished.append(end)
        await self._tell()
        results = await end
        self.finished.append(list(batch))
        return results

    async def _settle(self, batch: Sequence[Delivery], results: list[Result]) -> None:
        assert batch in self.finished, "settled before its write had finished"
        self.settled.append((list(batch), results))
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def add(self, *sizes: int) -> list[Delivery]:
        """Add messages of so many bytes."""
        added = sized(*sizes)
        for item in added:
            self.batches.add(item)
        return added

    def finish(self, number: int, results: list[Result] | None = None) -> None:
        """End the write that began as number so and so, counted from 0."""
        self.unfinished[number].set_result(results or ["stored"] * len(self.begun[number]))

    async def writing(self, count: int) -> None:
        """Wait until so many writes have begun."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.begun) >= count)

    async def settling(self, count: int) -> None:
        """Wait until so many batches are settled."""
        async with self._changed:
            await self._changed.wait_for(lambda: len(self.settled) >= count)


@asynccontextmanager
async def running(desk: Desk) -> AsyncIterator[asyncio.Task[None]]:
    """Run the desk's writers during a block."""
    task = asyncio.create_task(desk.batches.run())
    await rest()
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.wait({task})


async def rest() -> None:
    """Let every task go on until all of them wait for something that only the test or time can bring."""
    for _ in range(20):
        await asyncio.sleep(0)


def flushes() -> Counter[str]:
    """How often each trigger has flushed, in the whole test run."""
    return Counter(
        {
            sample.labels["trigger"]: int(sample.value)
            for family in metrics.flushes.collect()
            for sample in family.samples
            if sample.name == "tracker_flushes_total"
        }
    )


async def test_flush_when_the_rows_of_a_batch_are_there() -> None:
    before, desk = flushes(), Desk()
    async with running(desk):
        early = desk.add(1, 1)
        await rest()
        assert desk.begun == []
        last = desk.add(1)
        await desk.writing(1)
    assert desk.begun == [early + last]
    assert flushes() - before == {"rows": 1}


async def test_flush_when_the_bytes_of_a_batch_are_there() -> None:
    before, desk = flushes(), Desk()
    async with running(desk):
        early = desk.add(99)
        await rest()
        assert desk.begun == []
        desk.add(1)
        await desk.writing(1)
    assert desk.begun[0][0] is early[0]
    assert len(desk.begun[0]) == 2
    assert flushes() - before == {"bytes": 1}


async def test_flush_when_the_interval_has_passed() -> None:
    before, desk = flushes(), Desk(flush_interval_seconds=0.005, writers=2)
    async with running(desk):
        added = desk.add(1, 1)
        await desk.writing(1)
        desk.finish(0)
        added += desk.add(1)
        await desk.writing(2)
        assert desk.begun == [added[:2], added[2:]]
    assert flushes() - before == {"interval": 2}


async def test_an_interval_of_0_flushes_whenever_a_writer_is_free() -> None:
    before, desk = flushes(), Desk(flush_interval_seconds=0)
    async with running(desk):
        added = desk.add(1)
        await desk.writing(1)
        added += desk.add(1, 1)
        await rest()
        assert len(desk.begun) == 1
        desk.finish(0)
        await desk.writing(2)
        assert desk.begun == [added[:1], added[1:]]
    assert flushes() - before == {"idle": 2}


async def test_closing_flushes_what_waits_and_run_ends() -> None:
    before, desk = flushes(), Desk(writers=2)
    async with running(desk) as run:
        added = desk.add(1, 1)
        await rest()
        assert desk.begun == []
        desk.batches.close()
        await desk.writing(1)
        assert not run.done()
        desk.finish(0)
        await run
    assert desk.settled == [(added, ["stored", "stored"])]
    assert flushes() - before == {"shutdown": 1}


@pytest.mark.parametrize("writers", [1, 3])
async def test_run_ends_at_once_when_closed_and_empty(writers: int) -> None:
    desk = Desk(writers=writers)
    async with running(desk) as run:
        desk.batches.close()
        await run
    desk = Desk(writers=writers)
    desk.batches.close()
    await desk.batches.run()
    assert desk.begun == []


async def test_run_does_not_end_while_it_is_open() -> None:
    desk = Desk(flush_interval_seconds=0)
    async with running(desk) as run:
        for number in range(3):
            desk.add(1)
            await desk.writing(number + 1)
            desk.finish(number)
            await desk.settling(number + 1)
        await rest()
        assert not run.done()


async def test_a_close_during_a_write_still_flushes_what_came_meanwhile() -> None:
    """What waits is more than a batch, so one writer takes it in several; only the last is small."""
    before, desk = flushes(), Desk()
    async with running(desk) as run:
        added = desk.add(1, 1, 1)
        await desk.writing(1)
        added += desk.add(1, 1, 1, 1)
        desk.batches.close()
        for number in range(3):
            await desk.writing(number + 1)
            desk.finish(number)
        await run
    assert desk.begun == [added[:3], added[3:6], added[6:]]
    assert [batch for batch, _ in desk.settled] == desk.begun
    assert flushes() - before == {"rows": 2, "shutdown": 1}


async def test_writers_work_side_by_side() -> None:
    desk = Desk(writers=3)
    async with running(desk):
        added = desk.add(*[1] * 9)
        await desk.writing(3)
        assert desk.begun == [added[:3], added[3:6], added[6:]]
        desk.finish(1)
        await desk.settling(1)
        assert desk.settled[0][0] == added[3:6]
        added += desk.add(1, 1, 1)
        await desk.writing(4)
        assert desk.begun[3] == added[9:]


async def test_one_message_wakes_one_of_many_writers_and_the_rest_stay_useful() -> None:
    desk = Desk(writers=3, flush_interval_seconds=0)
    async with running(desk):
        for number in range(3):
            (item,) = desk.add(1)
            await desk.writing(number + 1)
            assert desk.begun[number] == [item]


async def test_while_all_writers_are_busy_batches_grow_up_to_the_bound() -> None:
    desk = Desk(writers=2, flush_interval_seconds=0, max_rows=4)
    async with running(desk):
        added = []
        for number in range(2):
            added += desk.add(1)
            await desk.writing(number + 1)
        for _ in range(6):
            added += desk.add(1)
            await rest()
        assert len(desk.begun) == 2
        assert desk.batches.held() == 8
        desk.finish(0)
        desk.finish(1)
        await desk.writing(4)
        assert desk.begun[2:] == [added[2:6], added[6:]]


async def test_a_message_over_the_bound_of_bytes_is_written_alone() -> None:
    desk = Desk(flush_interval_seconds=0)
    async with running(desk):
        added = desk.add(1, 500, 1)
        for number in range(3):
            await desk.writing(number + 1)
            desk.finish(number)
    assert desk.begun == [[item] for item in added]


async def test_room_is_what_is_left_beside_all_that_is_held() -> None:
    """Held is what waits and what is being written; a finished write gives its room back."""
    desk = Desk(writers=2)
    rows, size = desk.batches.room()
    assert (rows, size) == (2 * 3 * 3, 1000)
    async with running(desk):
        desk.add(10, 20, 30, 5)
        assert desk.batches.room() == (rows - 4, size - 65)
        await desk.writing(1)
        assert desk.batches.room() == (rows - 4, size - 65)
        assert desk.batches.held() == 4
        assert metrics.registry.get_sample_value("tracker_buffered_rows") == 4
        assert metrics.registry.get_sample_value("tracker_buffered_bytes") == 65
        desk.finish(0)
        await desk.settling(1)
        assert desk.batches.room() == (rows - 1, size - 5)
        assert metrics.registry.get_sample_value("tracker_buffered_rows") == 1
        assert metrics.registry.get_sample_value("tracker_buffered_bytes") == 5


async def test_room_is_back_when_a_batch_is_settled() -> None:
    """Who is told of the results asks for more messages right then."""
    seen = []

    async def write(batch: Sequence[Delivery]) -> list[Result]:
        return ["stored"] * len(batch)

    async def settle(_: Sequence[Delivery], __: list[Result]) -> None:
        seen.append(batches.room())

    batches = BatchWriter(policy(), [write], settle)
    room = batches.room()
    for item in sized(1, 2, 3):
        batches.add(item)
    batches.close()
    await batches.run()
    assert seen == [room]


async def test_room_is_negative_when_overfull() -> None:
    desk = Desk(max_buffered_bytes=100)
    desk.add(150)
    assert desk.batches.room()[1] == -50


async def test_settle_is_told_the_results_after_the_write() -> None:
    desk = Desk(writers=2)
    async with running(desk):
        added = desk.add(*[1] * 6)
        await desk.writing(2)
        await rest()
        assert desk.settled == []
        desk.finish(1, ["dead_letter", "stored", "released"])
        await desk.settling(1)
        await rest()
        assert desk.settled == [(added[3:], ["dead_letter", "stored", "released"])]
        desk.finish(0, ["duplicate", "stored", "stored"])
        await desk.settling(2)
        assert desk.settled[1:] == [(added[:3], ["duplicate", "stored", "stored"])]


class Defect(Exception):
    """What a part raises that has a defect."""


async def test_what_a_writer_raises_ends_run_and_settles_nothing() -> None:
    desk = Desk(writers=2)
    async with running(desk) as run:
        added = desk.add(*[1] * 7)
        await desk.writing(2)
        desk.unfinished[0].set_exception(Defect("of the writer"))
        await asyncio.wait({run})
    with pytest.raises(Defect, match="of the writer"):
        run.result()
    assert desk.settled == []
    assert desk.batches.unsettled() == added


async def test_what_settling_raises_ends_run() -> None:
    async def write(batch: Sequence[Delivery]) -> list[Result]:
        return ["stored"] * len(batch)

    async def settle(_: Sequence[Delivery], __: list[Result]) -> None:
        raise Defect("of the acknowledgement")

    batches = BatchWriter(policy(flush_interval_seconds=0), [write], settle)
    batches.add(*sized(1))
    with pytest.raises(Defect, match="of the acknowledgement"):
        await batches.run()


async def test_a_cancelled_run_hands_back_exactly_what_is_not_settled() -> None:
    """Batches under way come first, then what waits; the batch that is settled is not among them."""
    desk = Desk(writers=2)
    async with running(desk) as run:
        added = desk.add(*[1] * 11)
        await desk.writing(2)
        desk.finish(0)
        await desk.writing(3)
        assert desk.batches.unsettled() == added[3:]
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run
    assert desk.batches.unsettled() == added[3:]
    assert [batch for batch, _ in desk.settled] == [added[:3]]


async def test_a_drained_run_hands_nothing_back() -> None:
    desk = Desk()
    async with running(desk) as run:
        desk.add(1)
        desk.batches.close()
        await desk.writing(1)
        desk.finish(0)
        await run
    assert desk.batches.unsettled() == []
    assert desk.batches.held() == 0
