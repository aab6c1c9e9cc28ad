"""Which arm, which model: what agents ask before they decide, answered from memory."""

from tracker_daemon.choices.questions import CHOICES, ENDPOINTS, Assign, Assigned, Name, Select, Selected

__all__ = [
    "CHOICES",
    "ENDPOINTS",
    "Assign",
    "Assigned",
    "Name",
    "Select",
    "Selected",
]
