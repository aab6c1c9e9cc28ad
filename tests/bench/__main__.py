"""Measure the daemon against what the database can do, and against the best existing tool: `make bench`."""

from __future__ import annotations

import asyncio
import logging
import sys
from pathlib import Path
from typing import Annotated

import structlog
import typer
from rich.console import Console

from tests.bench import report
from tests.bench.bench import Bench, Result
from tests.bench.bridge import installed
from tests.bench.cases import CASES
from tests.bench.plot import draw, plot_library

FOLDER = Path(".cache/bench")


def main(
    only: Annotated[str, typer.Option(help=f"Only these cases, comma-separated: {', '.join(CASES)}.")] = "",
    rounds: Annotated[int, typer.Option(min=1, help="Rounds of each contestant.")] = 5,
    rows: Annotated[
        int, typer.Option(min=1, help="Rows of 2.7 KB in a drain; others in proportion.")
    ] = 60_000,
    scale: Annotated[float, typer.Option(min=0.0001, help="Of tables, backlogs, the time of live.")] = 1.0,
    kind: Annotated[str, typer.Option(help="Only rows of a kind whose name holds this text, like 2.7.")] = "",
    contestant: Annotated[str, typer.Option(help="Only contestants whose name holds this text.")] = "",
    json: Annotated[Path, typer.Option(help="Where all figures go.")] = FOLDER / "bench.json",
    plot: Annotated[Path, typer.Option(help="Where the picture goes.")] = FOLDER / "bench.png",
) -> None:
    """Run the cases one after the other on servers of their own; no time is asserted."""
    chosen = [name for name in only.split(",") if name] or list(CASES)
    if unknown := [name for name in chosen if name not in CASES]:
        raise typer.BadParameter(f"no case {unknown[0]!r}; there are {', '.join(CASES)}")
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    if not installed() or not plot_library():
        typer.echo("without mq-bridge or the plot: pip install tracker-daemon[bench] brings both", err=True)
    bench = Bench(rounds, rows, scale, kind, contestant)
    console = Console(width=None if sys.stdout.isatty() else 170)
    results: dict[str, Result] = {}
    for name in chosen:
        results[name] = asyncio.run(CASES[name](bench))
        console.print(report.table(name, results[name].lines), "")
        report.write(json, bench, results)  # after each: a run that is broken off has not been for nothing
    console.print(f"every figure: {json}")
    if plot_library() and draw(results, plot):
        console.print(f"plot: {plot}")


if __name__ == "__main__":
    typer.run(main)
