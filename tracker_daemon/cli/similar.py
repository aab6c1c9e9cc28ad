"""`tracker-daemon similar`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
import typer
from rich.padding import Padding
from rich.table import Table

from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import Csv, cell, money, print_csv, print_json
from tracker_daemon.cli.question import answer, filtered, json_object
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.queries import (
    MAX_DISTANCE,
    MAX_PRECEDENTS,
    MIN_OVERLAP,
    Filter,
    Precedent,
    Precedents,
    Situation,
    as_json,
    similar_decisions,
)


@filtered
def similar(
    wanted: Filter,
    situation: Annotated[
        dict[str, Any],
        typer.Argument(
            parser=json_object, metavar="SITUATION", help='A context: {"rsi": 62, "macd": {"line": 0.4}}.'
        ),
    ],
    weight: Annotated[
        list[str] | None,
        typer.Option(metavar="PATH=NUMBER", help="How much an indicator counts, else 1: macd.line=2."),
    ] = None,
    max_distance: Annotated[float, typer.Option(help="What is near, 0 to 1.")] = MAX_DISTANCE,
    min_overlap: Annotated[
        float, typer.Option(help="The part of SITUATION, by weight, that a decision must share.")
    ] = MIN_OVERLAP,
    resolved: Annotated[bool, typer.Option("--resolved", help="Only those with an outcome.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=MAX_PRECEDENTS, help="Decisions at most.")] = 20,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Find the decisions made in situations like this one, and say what came of them.

    Beside each indicator, in parentheses, is how far it is: 0 the same, 1 as far as can be. The distance of a
    decision is the mean of these.
    """
    asked = Situation(
        context=situation,
        weights=dict(map(_weight, weight or ())),
        max_distance=max_distance,
        min_overlap=min_overlap,
    )
    found = answer(
        load(config_file, settings),
        lambda connection: similar_decisions(connection, asked, wanted, limit, resolved=resolved),
    )
    if as_json:
        print_json(found)
    elif as_csv:
        print_csv(map(_row, found.precedents), Precedent.__struct_fields__)
    else:
        _print(found)


def _weight(text: str) -> tuple[str, float]:
    path, _, value = text.rpartition("=")
    try:
        return path, float(value)
    except ValueError:
        raise typer.BadParameter(f"expected PATH=NUMBER, such as macd.line=2, not {text}") from None


def _row(found: Precedent) -> dict[str, Any]:
    return msgspec.structs.asdict(found) | {"indicators": as_json(found.indicators).decode()}


def _print(found: Precedents) -> None:
    out = console()
    for place, each in enumerate(found.precedents):
        out.print(_table(each, header=not place))
        told = (f"{one.path} {as_json(one.value).decode()} ({one.distance:.2f})" for one in each.indicators)
        out.print(Padding(cell(", ".join(told)), (0, 0, 1, 2)))
    for sentence in _remarks(found):
        typer.echo(sentence)
    typer.echo(visible(found.summary.text))


def _table(each: Precedent, *, header: bool) -> Table:
    table = Table(box=None, pad_edge=False, show_header=header)
    table.add_column("id\nmade at", width=36)
    table.add_column("agent\nsymbol action", width=19)
    table.add_column("outcome\npnl", justify="right", width=10, overflow="fold")
    table.add_column("distance\noverlap", justify="right", width=8)
    table.add_row(
        cell(each.id).append("\n").append(cell(each.created_at)),
        cell(each.agent_name).append("\n").append(cell(f"{each.symbol} {each.action or '-'}")),
        cell(each.outcome).append(f"\n{money(each.pnl)}"),
        f"{each.distance:.3f}\n{each.overlap:.0%}",
    )
    return table


def _remarks(found: Precedents) -> Iterator[str]:
    which = "nearest in the index, " if found.by_index else "" if found.complete else "latest "
    yield (
        f"Of the {which}{found.looked_at:,} decisions with a context {found.comparable:,} share enough of "
        f"the situation, and {found.near:,} are near."
    )
    if found.waiting:
        yield f"The index is behind: {found.waiting:,} decisions that wait for it were not looked at."
    if found.near > len(found.precedents):
        yield f"These are the nearest {len(found.precedents):,}: what follows is about them."
    if not found.near and found.nearest is not None:
        yield f"The nearest is {found.nearest:.3f} away: see --max-distance."
    if found.unknown:
        yield visible(f"Not compared, as no scale is known for it: {', '.join(found.unknown)}.")
    if found.identifiers:
        told = ", ".join(found.identifiers)
        yield visible(f"Left out, as nearly every decision has another one (--weight counts it): {told}.")
