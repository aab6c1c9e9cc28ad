"""How many rejections, of which messages, are drift; and what an operator's word changes."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

import pytest
from structlog.testing import capture_logs

from tracker_daemon.store.drift import QUIET, WINDOW, Drift, Drifted

if TYPE_CHECKING:
    from collections.abc import Sequence

GOOD = None


def bad(count: int) -> list[UUID | None]:
    return [uuid4() for _ in range(count)]


def good(count: int) -> list[UUID | None]:
    return [GOOD] * count


def commit(drift: Drift, fates: Sequence[UUID | None], batch: UUID | None = None) -> None:
    """A batch from its first row to its commit; raises `Drifted` where it is stopped."""
    batch = batch or uuid4()
    rejected: dict[UUID, int] = {}
    for number, fate in enumerate(fates):
        if fate is not None:
            rejected[fate] = number
            drift.check(batch, rejected, "SQLSTATE 23514 on llm_decisions, sane")
    drift.remember(batch, fates)


@pytest.mark.parametrize("rows", [51, 200, 1000])
def test_a_quarter_of_the_window_is_tolerated_and_no_more(rows: int) -> None:
    commit(Drift(), good(rows - 50) + bad(50))
    with pytest.raises(Drifted):
        commit(Drift(), good(rows - 51) + bad(51))


@pytest.mark.parametrize("sizes", [[1000], [7] * 143, [1] * 1000])
def test_rejections_scattered_thinly_are_no_drift_and_batches_make_no_difference(sizes: list[int]) -> None:
    """One in four is tolerated for ever; one in three is not for as long as a window."""
    for every, tolerated in ((4, True), (3, False)):
        drift = Drift()
        fates = [uuid4() if number % every == 0 else GOOD for number in range(sum(sizes))]
        with contextlib.nullcontext() if tolerated else pytest.raises(Drifted):
            for size in sizes:
                commit(drift, fates[:size])
                del fates[:size]


def test_what_came_before_the_first_message_counts_as_good() -> None:
    drift = Drift()
    for fate in bad(50):
        commit(drift, [fate])
    with pytest.raises(Drifted):
        commit(drift, bad(1))


def test_the_newest_messages_before_a_batch_count_as_far_as_the_window_reaches() -> None:
    drift = Drift()
    commit(drift, good(20) + bad(45) + good(135))
    with pytest.raises(Drifted):
        commit(drift, good(14) + bad(6))
    # Six rows more, and six of the 45 are out of sight.
    commit(drift, good(20) + bad(6))


def test_a_message_that_comes_again_counts_once() -> None:
    drift = Drift()
    again = bad(1)
    for _ in range(2 * WINDOW):
        commit(drift, again)
    commit(drift, bad(49))
    commit(drift, again)
    with pytest.raises(Drifted):
        commit(drift, bad(1))


def test_messages_that_come_again_push_no_others_out_of_the_window() -> None:
    drift, circling = Drift(), bad(40)
    for new in bad(10):
        for fate in [*circling, new]:
            commit(drift, [fate])
    with pytest.raises(Drifted):
        commit(drift, bad(1))


def test_a_batch_that_is_not_committed_leaves_no_trace() -> None:
    drift = Drift()
    for _ in range(3):
        with pytest.raises(Drifted):
            commit(drift, bad(51))
    commit(drift, bad(50))


def test_the_sentence_says_how_many_what_and_what_to_do() -> None:
    with pytest.raises(
        Drifted, match=r"rejects 51 of the last 200 messages.* 23514 on llm_decisions, sane.*SIGUSR1"
    ):
        commit(Drift(), bad(120))


def test_an_override_lets_rejections_through_until_they_are_few_again() -> None:
    drift, batch, rejected = Drift(), uuid4(), bad(QUIET)
    with pytest.raises(Drifted):
        commit(drift, rejected, batch)
    with capture_logs() as lines:
        assert drift.override()
        commit(drift, rejected, batch)
        commit(drift, good(QUIET - 1))
        commit(drift, bad(QUIET))
        commit(drift, good(QUIET - 1))
        assert drift.overridden
        commit(drift, good(1))
        assert not drift.overridden
    assert ["SIGUSR1: " in line["event"] for line in lines] == [True, False]
    assert "as before SIGUSR1" in lines[1]["event"]
    with pytest.raises(Drifted):
        commit(drift, bad(51))


def test_an_override_holds_while_any_of_the_writers_meets_rejections() -> None:
    drift, batches = Drift(), {uuid4(): bad(QUIET), uuid4(): bad(QUIET)}
    for batch, fates in batches.items():
        with pytest.raises(Drifted):
            commit(drift, fates, batch)
    drift.override()
    for batch, fates in batches.items():
        commit(drift, fates, batch)
    assert drift.overridden
    commit(drift, good(QUIET))
    assert not drift.overridden


def test_an_override_waits_for_the_batch_that_it_is_for() -> None:
    """Another writer's good rows come first, while the stopped one waits for its next attempt."""
    drift, batch, rejected = Drift(), uuid4(), bad(250)
    with pytest.raises(Drifted):
        commit(drift, rejected + good(100), batch)
    drift.override()
    commit(drift, good(QUIET))
    assert drift.overridden
    commit(drift, rejected + good(100), batch)
    commit(drift, good(QUIET))
    assert not drift.overridden


@pytest.mark.parametrize("resumed", [False, True])
def test_an_override_without_a_pause_changes_nothing(resumed: bool) -> None:
    drift, batch = Drift(), uuid4()
    if resumed:
        with pytest.raises(Drifted):
            commit(drift, bad(51), batch)
        commit(drift, good(51), batch)
    assert not drift.override()
    assert not drift.overridden
    with pytest.raises(Drifted):
        commit(drift, bad(51))
