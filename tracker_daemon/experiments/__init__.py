"""Experiments: which of several ways to decide is the better one, and how sure that is."""

from tracker_daemon.experiments.comparison import Difference, Unequipped
from tracker_daemon.experiments.experiment import (
    METRICS,
    Arm,
    Assignment,
    Definition,
    Experiment,
    Metric,
    assign,
)
from tracker_daemon.experiments.register import Illegible, Register, begin, experiments, find, stop
from tracker_daemon.experiments.results import (
    Mean,
    OfArm,
    Results,
    Weighted,
    WeightedMean,
    experiment_results,
)
from tracker_daemon.experiments.verdict import Verdict

__all__ = [
    "METRICS",
    "Arm",
    "Assignment",
    "Definition",
    "Difference",
    "Experiment",
    "Illegible",
    "Mean",
    "Metric",
    "OfArm",
    "Register",
    "Results",
    "Unequipped",
    "Verdict",
    "Weighted",
    "WeightedMean",
    "assign",
    "begin",
    "experiment_results",
    "experiments",
    "find",
    "stop",
]
