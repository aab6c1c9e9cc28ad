"""Records what trading agents decided, and why: from NATS into PostgreSQL, nothing lost, nothing twice."""

from importlib.metadata import version

__version__ = version("tracker-daemon")
