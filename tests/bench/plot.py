"""The picture: throughput against the size of rows, and against the size of the table."""

from __future__ import annotations

import importlib.util
from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes

    from tests.bench.bench import Result


def plot_library() -> bool:
    """Whether the extra that brings matplotlib is there."""
    return importlib.util.find_spec("matplotlib") is not None


def draw(results: dict[str, Result], file: Path) -> bool:
    """Draw what *drain* and *growth* have found; False if neither was run."""
    # Only where the extra is installed; and without a screen.
    from matplotlib.figure import Figure  # noqa: PLC0415

    panels = [
        ("drain", "bytes", "bytes of JSON a message"),
        ("growth", "table_rows", "rows in the table before"),
    ]
    chosen = [(results[case].records, by, label) for case, by, label in panels if case in results]
    if not chosen:
        return False
    figure = Figure(figsize=(7 * len(chosen), 5), layout="constrained")
    for place, (records, by, label) in enumerate(chosen, start=1):
        _panel(figure.add_subplot(1, len(chosen), place), records, by, label)
    file.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(file, dpi=120)
    return True


def _panel(axes: Axes, records: list[dict[str, Any]], by: str, label: str) -> None:
    for name in dict.fromkeys(record["contestant"] for record in records):
        points = curve([record for record in records if record["contestant"] == name], by)
        axes.plot(*zip(*points, strict=True), marker="o", label=name)
    if by == "bytes":
        axes.set_xscale("log")
    axes.set_xlabel(label)
    axes.set_ylabel("messages per second (median)")
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    axes.legend()


def curve(records: list[dict[str, Any]], by: str) -> list[tuple[float, float]]:
    """Pair each size with the median rate of its runs; messages with embeddings are another matter."""
    rates: dict[float, list[float]] = {}
    for record in records:
        if record["rows"] != "embedding":
            rates.setdefault(record[by], []).append(record["messages"] / record["seconds"])
    return sorted((size, median(found)) for size, found in rates.items())
