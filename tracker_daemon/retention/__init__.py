"""What is too old goes: in small steps, behind a horizon that is committed first."""

from tracker_daemon.retention.pruning import TABLES, count, cutoff, move_horizon, prune
from tracker_daemon.retention.upkeep import Retention

__all__ = ["TABLES", "Retention", "count", "cutoff", "move_horizon", "prune"]
