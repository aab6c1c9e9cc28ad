"""What agents use: `DecisionTracker` records what they decide, and answers out of the record."""

from tracker_daemon.client.call import Call
from tracker_daemon.client.chosen import Chosen
from tracker_daemon.client.tracker import DecisionTracker

__all__ = ["Call", "Chosen", "DecisionTracker"]
