"""How good agents and models are lately: gauges for Prometheus, and an alert where one falls too low."""

from tracker_daemon.scores.watch import ScoreWatch

__all__ = ["ScoreWatch"]
