"""Batches into PostgreSQL: COPY, isolation of poison, drift, commit, projection."""

from tracker_daemon.store.drift import OUTCOMES, Drift
from tracker_daemon.store.poll import Poll
from tracker_daemon.store.store import Store

__all__ = ["OUTCOMES", "Drift", "Poll", "Store"]
