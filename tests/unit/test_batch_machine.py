"""The batch writer against a model: arrivals, ends of writes, time, close and cancel in any order."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.factory import delivery, message
from tracker_daemon import metrics
from tracker_daemon.batch import BatchWriter
from tracker_daemon.config import BatchSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tracker_daemon.messages import Delivery, Result

MAX_BUFFERED_BYTES = 1000
RESULTS: tuple[Result, ...] = ("stored", "duplicate", "dead_letter", "released")


sizes = st.lists(st.integers(0, 20) | st.integers(0, 150), max_size=5)
"""Payload bytes of messages that arrive together."""


class Defect(Exception):
    """What a part raises that has a defect."""


class ManualClock(asyncio.SelectorEventLoop):
    """An event loop whose time passes only when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Call:
    """A write or a settling under way, which ends when the machine says so."""

    def __init__(self, batch: Sequence[Delivery]) -> None:
        self.batch = list(batch)
        self.results: list[Result] = []
        self.end: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class BatchWriterMachine(RuleBasedStateMachine):
    """Rules act on the writer; the lists are the model of what it must have done by then."""

    @initialize(
        writers=st.integers(1, 3),
        max_rows=st.integers(1, 8),
        max_bytes=st.sampled_from([1, 50, 120, 1000]),
        interval=st.sampled_from([0, 5, 3600]),
        rested=st.booleans(),
        early=sizes,
    )
    def start(
        self,
        *,
        writers: int,
        max_rows: int,
        max_bytes: int,
        interval: float,
        rested: bool,
        early: list[int],
    ) -> None:
        self.policy = BatchSettings(
            max_rows=max_rows,
            max_bytes=max_bytes,
            flush_interval_seconds=interval,
            max_buffered_bytes=MAX_BUFFERED_BYTES,
        )
        self.writers = writers
        self.added: list[Delivery] = []
        self.arrived_at: list[float] = []
        self.taken: list[Delivery] = []
        self.writes: list[Call] = []
        self.written: list[Delivery] = []
        self.settled: list[Delivery] = []
        self.settlings: list[Call] = []
        self.defect = self.cancelled = False
        self.closed_at: int | None = None
        self.loop = ManualClock()
        self.batches = BatchWriter(self.policy, [self._write] * writers, self._settle)
        self.capacity = self.batches.room()
        self.run_ = self.loop.create_task(self.batches.run())
        if rested:
            self.rest()
        # Here too, for the runs in which hypothesis leaves a rule out.
        self.add(early)
        if rested:
            self.rest()

    # What the batch writer is handed

    async def _write(self, batch: Sequence[Delivery]) -> list[Result]:
        assert self._due(), "flushed without a reason"
        call = Call(batch)
        self.writes.append(call)
        self.taken += batch
        await call.end
        self.written += batch
        return call.results

    async def _settle(self, batch: Sequence[Delivery], results: list[Result]) -> None:
        assert not self.run_.done(), "settled after run had ended"
        (write,) = [call for call in self.writes if is_same(call.batch, batch)]
        assert write.end.done(), "settled before its write had ended"
        assert not write.end.cancelled()
        assert write.end.exception() is None
        assert results is write.results
        self.settled += batch
        call = Call(batch)
        self.settlings.append(call)
        await call.end

    # What may happen

    @rule(sizes=sizes)
    def add(self, sizes: list[int]) -> None:
        for size in sizes:
            item = delivery(message(b"x" * size))
            self.added.append(item)
            self.arrived_at.append(self.loop.now)
            self._within_loop(partial(self.batches.add, item))

    @precondition(lambda self: bool(open_among(self.writes)))
    @rule(data=st.data())
    def finish_a_write(self, data: st.DataObject) -> None:
        call = data.draw(st.sampled_from(open_among(self.writes)))
        size = len(call.batch)
        call.results = data.draw(st.lists(st.sampled_from(RESULTS), min_size=size, max_size=size))
        call.end.set_result(None)

    @precondition(lambda self: bool(open_among(self.settlings)))
    @rule(data=st.data())
    def finish_a_settling(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(open_among(self.settlings))).end.set_result(None)

    @precondition(lambda self: bool(open_among(self.writes + self.settlings)))
    @precondition(lambda self: not self.defect)
    @rule(data=st.data())
    def fail_with_a_defect(self, data: st.DataObject) -> None:
        self.defect = True
        data.draw(st.sampled_from(open_among(self.writes + self.settlings))).end.set_exception(Defect())

    @rule(seconds=st.integers(1, 10))
    def pass_time(self, seconds: int) -> None:
        self.loop.now += seconds

    @rule(turns=st.integers(0, 4))
    def turn(self, turns: int) -> None:
        self._turn(turns)

    @rule()
    def rest(self) -> None:
        """Whoever can go on has gone on: no batch that is due waits beside an idle writer."""
        self._turn(30)
        if self.run_.done():
            return
        under_way = len(open_among(self.writes + self.settlings))
        # Once closed, a writer that found nothing to do has gone.
        busy = under_way == self.writers if self.closed_at is None else under_way > 0
        assert busy or not self._due(), "a writer is idle while a flush is due"
        waiting = len(self.added) > len(self.taken)
        assert under_way or waiting or self.closed_at is None, "closed and empty, yet it runs"

    @rule()
    def close(self) -> None:
        if self.closed_at is None:
            self.closed_at = len(self.added)
        self._within_loop(self.batches.close)

    @rule()
    def cancel(self) -> None:
        self.cancelled = True
        self.run_.cancel()

    # What holds at all times

    @invariant()
    def messages_are_taken_once_and_in_order_of_arrival(self) -> None:
        assert is_same(self.taken, self.added[: len(self.taken)])

    @invariant()
    def batches_are_within_the_bounds_and_one_a_writer(self) -> None:
        for call in self.writes:
            assert 1 <= len(call.batch) <= self.policy.max_rows
            assert len(call.batch) == 1 or total(call.batch) <= self.policy.max_bytes
        assert len(open_among(self.writes + self.settlings)) <= self.writers

    @invariant()
    def each_message_is_settled_once_or_held_to_be_handed_back(self) -> None:
        held = self.batches.unsettled()
        assert is_same(sorted(self.settled + held, key=id), sorted(self.added, key=id))
        waiting = self.added[len(self.taken) :]
        assert is_same(held[len(held) - len(waiting) :], waiting)

    @invariant()
    def room_and_metrics_agree_with_what_is_held(self) -> None:
        rows = len(self.added) - len(self.written)
        size = total(self.added) - total(self.written)
        assert self.batches.held() == rows
        assert self.batches.room() == (self.capacity[0] - rows, self.capacity[1] - size)
        if self.added:  # before, the gauges still tell of the example before
            assert metrics.registry.get_sample_value("tracker_buffered_rows") == rows
            assert metrics.registry.get_sample_value("tracker_buffered_bytes") == size

    @invariant()
    def run_ends_only_for_a_reason(self) -> None:
        if not self.run_.done():
            return
        if self.run_.cancelled():
            assert self.cancelled
        elif self.run_.exception() is not None:
            assert isinstance(self.run_.exception(), Defect)
            assert self.defect
        else:
            assert self.closed_at is not None
            assert len(self.taken) >= self.closed_at
        assert not open_among(self.writes + self.settlings)

    def teardown(self) -> None:
        """Drain what was closed, cancel what was not: either way `run` ends."""
        try:
            if self.closed_at is None:
                self.cancel()
            self._end_all()
            self.run_ends_only_for_a_reason()
            self.each_message_is_settled_once_or_held_to_be_handed_back()
            self.room_and_metrics_agree_with_what_is_held()
        finally:
            self.loop.close()

    def _end_all(self) -> None:
        while True:
            self._turn(30)
            if self.run_.done():
                return
            calls = open_among(self.writes + self.settlings)
            assert calls, "closed or cancelled, yet nothing goes on"
            for call in calls:
                call.results = ["stored"] * len(call.batch)
                call.end.set_result(None)

    def _due(self) -> bool:
        waiting = self.added[len(self.taken) :]
        if not waiting or self.closed_at is not None:
            return bool(waiting)
        age = self.loop.now - self.arrived_at[len(self.taken)]
        return (
            len(waiting) >= self.policy.max_rows
            or total(waiting) >= self.policy.max_bytes
            or age >= self.policy.flush_interval_seconds
        )

    def _turn(self, turns: int) -> None:
        async def turn() -> None:
            for _ in range(turns):
                await asyncio.sleep(0)

        self.loop.run_until_complete(turn())

    def _within_loop(self, act: Callable[[], None]) -> None:
        async def call() -> None:
            act()

        self.loop.run_until_complete(call())


def open_among(calls: list[Call]) -> list[Call]:
    """The calls that have not ended."""
    return [call for call in calls if not call.end.done()]


def is_same(some: Sequence[Delivery], others: Sequence[Delivery]) -> bool:
    """Whether these are the very same deliveries, not only equal ones."""
    return list(map(id, some)) == list(map(id, others))


def total(batch: Sequence[Delivery]) -> int:
    """The payload bytes of a batch."""
    return sum(item.size for item in batch)


TestBatchWriter = BatchWriterMachine.TestCase
TestBatchWriter.settings = settings(max_examples=200, stateful_step_count=30)
