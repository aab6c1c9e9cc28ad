"""A turn that holds the event loop shows in the metric, for as long as it lasted."""

from __future__ import annotations

import asyncio
import time

from tracker_daemon import metrics
from tracker_daemon.loop import timed_loop


def turns(bound: str) -> float:
    """The turns so far that took no longer than a bound of seconds."""
    labels = {"le": bound}
    return metrics.registry.get_sample_value("tracker_event_loop_turn_seconds_bucket", labels) or 0.0


async def hold() -> None:
    """Let nothing else happen for 25 ms, at least."""
    time.sleep(0.025)  # noqa: ASYNC251 - this is what is to be noticed


def test_a_step_that_holds_the_loop_is_counted_above_its_bound() -> None:
    long_before = turns("+Inf") - turns("0.02")
    with asyncio.Runner(loop_factory=timed_loop) as runner:
        runner.run(hold())
    assert turns("+Inf") - turns("0.02") > long_before
