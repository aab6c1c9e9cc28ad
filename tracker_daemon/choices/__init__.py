"""Which arm, which model: what agents ask before they decide, answered from memory."""

from tracker_daemon.choices.memory import BOUND_SECONDS, Memory, Stale
from tracker_daemon.choices.questions import CHOICES, ENDPOINTS, Assign, Assigned, Select, Selected

__all__ = [
    "BOUND_SECONDS",
    "CHOICES",
    "ENDPOINTS",
    "Assign",
    "Assigned",
    "Memory",
    "Select",
    "Selected",
    "Stale",
]
