"""`tracker-daemon calibration`."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tracker_daemon.cli.charts import interval_bar
from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import Csv, number, print_csv, print_json
from tracker_daemon.cli.question import answer, filtered, window
from tracker_daemon.cli.stats import GroupBy, Maturity, keys_of
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.errors import TrackerError
from tracker_daemon.queries import Bucket, Calibration, Calibrations, Filter
from tracker_daemon.queries import calibration as calibration_of

_SCORES: Final = ("brier_score", "expected_calibration_error", "maximum_calibration_error")
_PARTS: Final = (
    *("reliability", "resolution", "uncertainty"),
    *("within_bucket_variance", "within_bucket_covariance"),
)
_LEFT_OUT: Final = ("immature", "undecided", "without_confidence")


class Undrawn(TrackerError):
    """The picture cannot be drawn, or not written."""


Buckets = Annotated[int, typer.Option(help="Parts of equal width, 2 to 50.")]
Plot = Annotated[
    Path | None,
    typer.Option(metavar="FILE.png", help="Also draw the reliability diagram there (extra plot)."),
]


@filtered
def calibration(
    wanted: Filter,
    group_by: GroupBy = None,
    buckets: Buckets = 10,
    maturity: Maturity = None,
    plot: Plot = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Say what stated confidences are worth: against what came of it, bucket by bucket, and in one number.

    brier_score is reliability - resolution + uncertainty + within_bucket_variance - within_bucket_covariance.
    Intervals are those of 95 %. CSV has the buckets.
    """
    keys, loaded = keys_of(group_by or []), load(config_file, settings)
    mature = window(maturity, loaded)
    told = answer(
        loaded,
        lambda connection: calibration_of(connection, wanted, keys, buckets=buckets, maturity=mature),
    )
    if plot:
        _draw(told.groups, plot)
    if as_json:
        print_json(told)
    elif as_csv:
        rows = (
            {**group.key, **msgspec.structs.asdict(part)} for group in told.groups for part in group.buckets
        )
        print_csv(rows, [*keys, *Bucket.__struct_fields__])
    else:
        _print(console(), told)
    if not told.complete:
        remark = f"These are the {len(told.groups):,} largest groups; there are more."
        typer.echo(remark, err=as_json or as_csv)


def _print(out: Console, told: Calibrations) -> None:
    for group in told.groups:
        if group.key:
            out.print(Text(_name(group), "bold"))
        if group.buckets:
            out.print(_reliability(group.buckets))
            out.print(_numbers(group))
        out.print(_remark(group) + "\n")
    if not told.groups:
        out.print("No decision is like that.")


def _name(group: Calibration) -> str:
    return visible(", ".join(str(value or "-") for value in group.key.values()))


def _remark(group: Calibration) -> str:
    left_out = [f"{getattr(group, name):,} {name.replace('_', ' ')}" for name in _LEFT_OUT]
    return f"Of {group.decisions:,} decisions; left out are {', '.join(left_out)}."


def _reliability(buckets: Sequence[Bucket]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("confidence")
    for name in ("decisions", "avg_confidence", "resolved_success_rate"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for part in buckets:
        rate, lower, upper = (
            part.resolved_success_rate,
            part.resolved_success_rate_lower,
            part.resolved_success_rate_upper,
        )
        table.add_row(
            f"{part.lower:.2f} to {part.upper:.2f}",
            number(part.decisions),
            f"{part.avg_confidence:.1%}",
            f"{rate:.1%}",
            Text(interval_bar(rate, lower, upper, 16), "cyan"),
        )
    return table


def _numbers(group: Calibration) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    for name, value, bounds in _rows(group):
        table.add_row(name, Text(f"{value:.4f}", justify="right"), bounds)
    return table


def _rows(group: Calibration) -> Iterator[tuple[str, float, str]]:
    for name in (*_SCORES, *_PARTS):
        bounds = ""
        if name in _SCORES:
            bounds = f"{getattr(group, f'{name}_lower'):.4f} to {getattr(group, f'{name}_upper'):.4f}"
        yield name, getattr(group, name), bounds


def _draw(groups: Sequence[Calibration], file: Path) -> None:
    """A reliability diagram: a line for each group, with the intervals of its buckets."""
    try:
        figures: Any = importlib.import_module("matplotlib.figure")
    except ImportError:
        raise Undrawn("--plot needs matplotlib: pip install 'tracker-daemon[plot]'") from None
    figure = figures.Figure(figsize=(6, 6), layout="constrained")
    axes = figure.add_subplot(xlabel="stated confidence", ylabel="resolved_success_rate, 95 % interval")
    axes.plot([0, 1], [0, 1], color="grey", linestyle=":", label="as stated")
    for group in groups:
        rates = [part.resolved_success_rate for part in group.buckets]
        below = [part.resolved_success_rate - part.resolved_success_rate_lower for part in group.buckets]
        above = [part.resolved_success_rate_upper - part.resolved_success_rate for part in group.buckets]
        stated = [part.avg_confidence for part in group.buckets]
        name = (_name(group) or "all").replace("$", r"\$")  # no formulas
        axes.errorbar(stated, rates, yerr=[below, above], marker="o", capsize=3, label=name)
    axes.legend()
    try:
        figure.savefig(file)
    except (OSError, ValueError) as error:
        raise Undrawn(f"{file} cannot be drawn: {error}") from error
