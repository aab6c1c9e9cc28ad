"""Which model decides next: chosen by what the record tells of each, recent decisions above all."""

from tracker_daemon.selection.contest import Candidate, Choice, Why
from tracker_daemon.selection.events import Event, events
from tracker_daemon.selection.guardrail import Ruling
from tracker_daemon.selection.policy import Policy
from tracker_daemon.selection.register import pin, policies, set_policy, switch_off, switch_on, unpin
from tracker_daemon.selection.results import OfModel, SelectionResults, selection_results
from tracker_daemon.selection.snapshot import Snapshot, select_model
from tracker_daemon.selection.standing import Standing

__all__ = [
    "Candidate",
    "Choice",
    "Event",
    "OfModel",
    "Policy",
    "Ruling",
    "SelectionResults",
    "Snapshot",
    "Standing",
    "Why",
    "events",
    "pin",
    "policies",
    "select_model",
    "selection_results",
    "set_policy",
    "switch_off",
    "switch_on",
    "unpin",
]
