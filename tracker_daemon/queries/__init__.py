"""Answers out of the record, each one statement: how good, what was decided, how well a confidence tells."""

from tracker_daemon.queries.briefing import (
    MAX_TOKEN_BUDGET,
    TOKEN_BUDGET,
    Briefing,
    Facts,
    Quoting,
    estimate_tokens,
    fit_briefing,
    gather_facts,
)
from tracker_daemon.queries.calibration import Bucket, Calibration, Calibrations, calibration
from tracker_daemon.queries.decisions import (
    Event,
    Told,
    Whole,
    decision,
    failed_decisions,
    recent_decisions,
    successful_decisions,
)
from tracker_daemon.queries.export import count_decisions, export_decisions
from tracker_daemon.queries.filter import Filter, Selection, finite, holdable
from tracker_daemon.queries.monitoring import (
    Latency,
    Table,
    Volume,
    confidence_vs_outcome,
    latency_by_model,
    volume_by_agent,
)
from tracker_daemon.queries.page import MAX_LIMIT, Page
from tracker_daemon.queries.pool import Busy, Reader
from tracker_daemon.queries.prompts import MAX_ALIKE, Alike, AlikePrompts, similar_prompts
from tracker_daemon.queries.questions import QUESTIONS, Prompts, Question, as_json, asked, matured, parse
from tracker_daemon.queries.reading import reading
from tracker_daemon.queries.schema import answer_schema, question_schema
from tracker_daemon.queries.search import Found, Searched, search
from tracker_daemon.queries.similar import MAX_PRECEDENTS, Compared, Precedent, Precedents, similar_decisions
from tracker_daemon.queries.situation import MAX_DISTANCE, MIN_OVERLAP, Situation
from tracker_daemon.queries.stats import KEYS, Answer, Key, Stats, decision_stats
from tracker_daemon.queries.summary import OfAction, Summary, situation_summary

__all__ = [
    "KEYS",
    "MAX_ALIKE",
    "MAX_DISTANCE",
    "MAX_LIMIT",
    "MAX_PRECEDENTS",
    "MAX_TOKEN_BUDGET",
    "MIN_OVERLAP",
    "QUESTIONS",
    "TOKEN_BUDGET",
    "Alike",
    "AlikePrompts",
    "Answer",
    "Briefing",
    "Bucket",
    "Busy",
    "Calibration",
    "Calibrations",
    "Compared",
    "Event",
    "Facts",
    "Filter",
    "Found",
    "Key",
    "Latency",
    "OfAction",
    "Page",
    "Precedent",
    "Precedents",
    "Prompts",
    "Question",
    "Quoting",
    "Reader",
    "Searched",
    "Selection",
    "Situation",
    "Stats",
    "Summary",
    "Table",
    "Told",
    "Volume",
    "Whole",
    "answer_schema",
    "as_json",
    "asked",
    "calibration",
    "confidence_vs_outcome",
    "count_decisions",
    "decision",
    "decision_stats",
    "estimate_tokens",
    "export_decisions",
    "failed_decisions",
    "finite",
    "fit_briefing",
    "gather_facts",
    "holdable",
    "latency_by_model",
    "matured",
    "parse",
    "question_schema",
    "reading",
    "recent_decisions",
    "search",
    "similar_decisions",
    "similar_prompts",
    "situation_summary",
    "successful_decisions",
    "volume_by_agent",
]
