"""The table in which a run of chaos ends."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Final

from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.chaos.scene import Report

COLUMNS: Final = (
    ("fault", "left"),
    ("rounds", "right"),
    ("messages", "right"),
    ("injected", "left"),
    ("lost", "right"),
    ("twice", "right"),
    ("wrong", "right"),
    ("recovered s", "right"),
    ("worst", "right"),
    ("peak MiB", "right"),
)


def passed(report: Report) -> bool:
    """Whether faults were injected and nothing came of them."""
    return report.verdict.clean and report.injected.total() > 0


def table(reports: Mapping[str, Report]) -> Table:
    """Lay out a line a fault; a fault that was not injected, or not survived, is red.

    Times to recover are the median and the worst of all rounds, in seconds.
    """
    made = Table(title="Nothing lost, nothing twice", box=None, pad_edge=False)
    for name, justify in COLUMNS:
        made.add_column(name, justify="right" if justify == "right" else "left", no_wrap=name != "injected")
    for name, report in reports.items():
        verdict, times = report.verdict, report.recoveries
        made.add_row(
            name,
            str(len(times)),
            f"{verdict.messages:,}",
            ", ".join(f"{count:,} {what}" for what, count in report.injected.items()) or "nothing",
            *(str(len(found)) for found in (verdict.lost, verdict.twice, verdict.wrong)),
            f"{median(times):.1f}" if times else "",
            f"{max(times):.1f}" if times else "",
            f"{report.peak_mib:.0f}" if report.peak_mib else "",
            style=None if passed(report) else "red",
        )
    return made
