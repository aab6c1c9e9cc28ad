"""Batches into PostgreSQL: COPY, isolation of poison, commit, projection."""

from tracker_daemon.store.poll import Poll
from tracker_daemon.store.store import Store

__all__ = ["Poll", "Store"]
