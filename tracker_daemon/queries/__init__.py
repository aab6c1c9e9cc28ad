"""Answers out of the record, each one statement: how good, what was decided, how well a confidence tells."""

from tracker_daemon.queries.decisions import (
    Event,
    Told,
    Whole,
    decision,
    failed_decisions,
    recent_decisions,
    successful_decisions,
)
from tracker_daemon.queries.filter import Filter
from tracker_daemon.queries.page import Page
from tracker_daemon.queries.questions import QUESTIONS, Question, as_json, parse
from tracker_daemon.queries.reading import reading
from tracker_daemon.queries.stats import KEYS, Answer, Key, Stats, decision_stats

__all__ = [
    "KEYS",
    "QUESTIONS",
    "Answer",
    "Event",
    "Filter",
    "Key",
    "Page",
    "Question",
    "Stats",
    "Told",
    "Whole",
    "as_json",
    "decision",
    "decision_stats",
    "failed_decisions",
    "parse",
    "reading",
    "recent_decisions",
    "successful_decisions",
]
