"""The table on screen, and the file that keeps every figure."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Final

from rich.table import Table

from tests.bench.bridge import installed
from tests.bench.stage import NATS_OPTIONS, SETTINGS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.bench.bench import Bench, Line, Result

_ASKED: Final = ("rounds", "rows", "scale", "kind", "contestant")
_STYLES: Final = {"aim": "green", "reach": "yellow", "missed": "red"}


def table(case: str, lines: list[Line]) -> Table:
    """A line for each measure; green: what is aimed at, yellow: what must be reached, red: missed."""
    made = Table(title=case, title_justify="left", box=None, pad_edge=False)
    made.add_column("measure", no_wrap=True)
    made.add_column("figure", no_wrap=True)
    made.add_column("ratio, or what is judged", justify="right", no_wrap=True)
    made.add_column("goal: reach · aim", justify="right", no_wrap=True)
    for line in lines:
        judged = goal = ""
        style = None
        if line.judged:
            judged = f"{_short(line.judged.median)} ({_short(line.judged.low)}-{_short(line.judged.high)})"
            if line.goal:
                style = _STYLES[line.goal.met(line.judged.median)]
        if line.goal:
            sign = "≥" if line.goal.least else "≤"
            goal = f"{sign} {line.goal.reach:,g} · {sign} {line.goal.aim:,g}"
        made.add_row(line.measure, line.figure, judged, goal, style=style)
    return made


def _short(figure: float) -> str:
    return f"{figure:,.0f}" if figure >= 100 else f"{figure:.3g}"


def write(file: Path, bench: Bench, results: dict[str, Result]) -> None:
    """Write every run's raw figures, and where they were measured."""
    file.parent.mkdir(parents=True, exist_ok=True)
    report = {
        "environment": environment() | bench.servers,
        "asked": {name: getattr(bench, name) for name in _ASKED},
        "cases": {
            case: {"runs": result.records, "lines": [_plain(line) for line in result.lines]}
            for case, result in results.items()
        },
    }
    file.write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n")


def environment() -> dict[str, Any]:
    """Machine, versions and settings."""
    return {
        "cpus": os.cpu_count(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("tracker-daemon", "asyncpg", "nats-py")},
        "mq-bridge": version("mq-bridge") if installed() else None,
        "postgresql_settings": SETTINGS,
        "nats_options": NATS_OPTIONS,
    }


def _plain(line: Line) -> dict[str, Any]:
    judged = line.judged
    return {
        "measure": line.measure,
        "figure": line.figure,
        "median": judged and judged.median,
        "low": judged and judged.low,
        "high": judged and judged.high,
    }
