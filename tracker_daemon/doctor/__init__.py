"""Looks at a set-up, whether or not a daemon runs on it, and says what is wrong and what to do.

It only reads. Broken is what keeps a daemon from its work, or what makes it lose messages; a warning is what
works, and will not on a bad day.
"""

from tracker_daemon.doctor.examination import examine
from tracker_daemon.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
