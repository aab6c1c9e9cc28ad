"""What selecting models costs, and what happens meanwhile, as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

from tests.sim import courses
from tests.sim.bandit import PER_DAY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.sim.bandit import Course


def draw(folder: Path) -> Iterator[Path]:
    """Draw each picture into the folder, and yield where it is."""
    pictures: dict[str, Callable[[Axes], None]] = {
        "regret": _regret,
        "drift": _drift,
        "slow outcomes": _slow,
        "guardrail": _guardrail,
    }
    for name, picture in pictures.items():
        figure = Figure(figsize=(8, 4.5), layout="constrained")
        axes = figure.subplots()
        picture(axes)
        axes.set_xlabel("day")
        axes.grid(alpha=0.3)
        axes.legend()
        path = folder / f"{name.replace(' ', '-')}.png"
        figure.savefig(path, dpi=120)
        yield path


def _regret(axes: Axes) -> None:
    axes.set_title("Successes lost to not choosing the best of three models, and the range of six courses")
    for policy in ("uniform", "epsilon", "best", "thompson"):
        played = courses.stationary(policy)
        totals = np.cumsum([course.regret for course in played], axis=1)
        axes.plot(played[0].days, totals.mean(axis=0), label=policy)
        axes.fill_between(played[0].days, totals.min(axis=0), totals.max(axis=0), alpha=0.15)
    axes.set_ylabel("regret so far")


def _drift(axes: Axes) -> None:
    axes.set_title("Two models change places: share of the one that is better from then on")
    for half_life, what in ((5.0, "half-life of 5 days"), (3650.0, "no discount")):
        _shares(axes, courses.drifting(half_life), "b", what)
    axes.axvline(courses.CHANGE_DAY, color="grey", linestyle="--", label="change")


def _slow(axes: Axes) -> None:
    axes.set_title("Outcomes of one model come ten times later: its share")
    _shares(axes, courses.slow(0.7), "b", "it is better")
    _shares(axes, courses.slow(0.55), "b", "it is equal")


def _guardrail(axes: Axes) -> None:
    axes.set_title("A model far below the floor is benched, and leads once it has recovered")
    played = courses.recovering()
    _shares(axes, played, "c", "its share, in the mean of six courses")
    _shares(axes, played[:1], "c", "in the first of them")
    for day, kind, name in played[0].rulings:
        if name == "c":
            axes.axvline(day, color="grey", linestyle=":")
            height = {"benched": 0.35, "retried": 0.35, "promoted": 0.6}[kind]
            axes.text(day, height, kind, rotation=90, va="center", ha="right", color="grey")


def _shares(axes: Axes, played: tuple[Course, ...], name: str, label: str) -> None:
    """Of each day's decisions, in the mean of some courses."""
    shares = np.mean([course.arm == course.names.index(name) for course in played], axis=0)
    axes.plot(shares.reshape(-1, PER_DAY).mean(axis=1), label=label)
    axes.set_ylabel("share")
    axes.set_ylim(0, 1)
