"""The command `tracker-daemon`."""

from tracker_daemon.cli.app import main

__all__ = ["main"]
