"""A briefing: what the record says to a model that is about to decide, as facts and as part of a prompt."""

from tracker_daemon.queries.briefing.block import MAX_TOKENS, TOKENS, Briefing, fitted
from tracker_daemon.queries.briefing.facts import Decided, Facts, Quotation, Quoting, gather_facts
from tracker_daemon.queries.briefing.tokens import estimate

__all__ = [
    "MAX_TOKENS",
    "TOKENS",
    "Briefing",
    "Decided",
    "Facts",
    "Quotation",
    "Quoting",
    "estimate",
    "fitted",
    "gather_facts",
]
