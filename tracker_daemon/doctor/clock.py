"""The clock of a server beside the one of this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tracker_daemon.doctor.finding import Finding

if TYPE_CHECKING:
    from datetime import datetime

MAX_SKEW_SECONDS: Final = 1


def compare(part: str, asked: datetime, theirs: datetime, answered: datetime) -> Finding:
    """Compare a server's time with the moments of asking and of its answer; in doubt the clocks agree.

    The server read its clock at any moment in between, so half of the round trip is the error.
    """
    error = (answered - asked) / 2
    ahead = (theirs - asked - error).total_seconds()
    doubt = error.total_seconds()
    seen = f"{abs(ahead):.3f} s {'ahead of' if ahead > 0 else 'behind'} this machine (±{doubt:.3f} s)"
    if abs(ahead) - doubt <= MAX_SKEW_SECONDS:
        return Finding(part, "ok", seen)
    needs = "leases, tracker_publish_to_commit_seconds and the order of outcomes need clocks that agree"
    return Finding(part, "warning", f"{seen}; {needs}: run an NTP client such as chrony on both")
