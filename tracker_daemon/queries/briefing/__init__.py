"""A briefing: what the record says to a model that is about to decide, as facts and as part of a prompt."""

from tracker_daemon.queries.briefing.block import MAX_TOKEN_BUDGET, TOKEN_BUDGET, Briefing, fit_briefing
from tracker_daemon.queries.briefing.facts import Decided, Facts, Quotation, Quoting, gather_facts
from tracker_daemon.queries.briefing.tokens import estimate_tokens

__all__ = [
    "MAX_TOKEN_BUDGET",
    "TOKEN_BUDGET",
    "Briefing",
    "Decided",
    "Facts",
    "Quotation",
    "Quoting",
    "estimate_tokens",
    "fit_briefing",
    "gather_facts",
]
