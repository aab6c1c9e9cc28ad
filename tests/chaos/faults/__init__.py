"""The failure matrix, a module for each part that fails."""

from tests.chaos.fault import FAULTS
from tests.chaos.faults import cluster, crashes, fleet, poison, postgres, stream

__all__ = ["FAULTS", "cluster", "crashes", "fleet", "poison", "postgres", "stream"]
