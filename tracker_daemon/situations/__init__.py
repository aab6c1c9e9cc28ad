"""Situations: what a context says, indicator by indicator, and what is a large difference for each."""

from tracker_daemon.situations.indicators import MAX_DEPTH, MAX_INDICATORS, Indicator, indicators
from tracker_daemon.situations.scales import Sample, Scale

__all__ = [
    "MAX_DEPTH",
    "MAX_INDICATORS",
    "Indicator",
    "Sample",
    "Scale",
    "indicators",
]
