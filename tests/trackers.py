"""Trackers as agents make them, on streams of tests."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tracker_daemon.client import DecisionTracker

if TYPE_CHECKING:
    from tests.acceptance.stream import Stream


def over_nats(stream: Stream, **options: Any) -> DecisionTracker:
    """A tracker that publishes to a stream, and asks the daemons that take from it."""
    return DecisionTracker.over_nats(
        stream.settings["TRACKER_NATS_SERVERS"],
        decisions_subject=stream.decisions,
        outcomes_subject=stream.outcomes,
        query_subject=stream.questions,
        **options,
    )
