"""A turn that holds the event loop shows in the metrics, for as long as it lasted and as it worked."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from tracker_daemon import metrics
from tracker_daemon.loop import timed_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine


def long_turns(kind: str) -> float:
    """The turns so far that took longer than 20 ms, by the clock (`turn`) or of CPU time (`turn_cpu`)."""

    def up_to(bound: str) -> float:
        name = f"tracker_event_loop_{kind}_seconds_bucket"
        return metrics.registry.get_sample_value(name, {"le": bound}) or 0.0

    return up_to("+Inf") - up_to("0.02")


async def wait() -> None:
    """Let nothing else happen for 25 ms, and do nothing."""
    time.sleep(0.025)  # noqa: ASYNC251 - this is what is to be noticed


async def work() -> None:
    """Take 25 ms of CPU time."""
    until = time.thread_time() + 0.025
    while time.thread_time() < until:
        pass


@pytest.mark.parametrize(("step", "cpu"), [(wait, False), (work, True)])
def test_a_step_that_holds_the_loop_is_counted_above_its_bound(
    step: Callable[[], Coroutine[None, None, None]], cpu: bool
) -> None:
    before, cpu_before = long_turns("turn"), long_turns("turn_cpu")
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(step())
    assert long_turns("turn") > before
    assert (long_turns("turn_cpu") > cpu_before) is cpu
