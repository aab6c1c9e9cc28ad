"""`tracker-daemon stats`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, timedelta
from typing import Annotated, Any, Final

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from tracker_daemon.cli.charts import interval_bar, sparkline
from tracker_daemon.cli.options import ConfigFile, Json, Set, age_or_time, load
from tracker_daemon.cli.output import Csv, cell, money, number, print_csv, print_json
from tracker_daemon.cli.question import SHORT, answer, filtered, window
from tracker_daemon.cli.terminal import console
from tracker_daemon.queries import KEYS, Answer, Filter, Key, Stats, decision_stats

_COLUMNS: Final = Stats.__struct_fields__[1:]  # the key has columns of its own


def keys_of(texts: list[str]) -> list[Key]:
    """The keys that are given one by one, or with commas, by their own names or as the filter's options."""
    columns = {SHORT.get(key, key): key for key in KEYS} | {key: key for key in KEYS}
    names = [name.strip() for text in texts for name in text.split(",")]
    if unknown := [name for name in names if name not in columns]:
        known = ", ".join(SHORT.get(key, key) for key in KEYS)
        raise typer.BadParameter(f"cannot group by {unknown[0]}; there are {known}")
    return list(dict.fromkeys(columns[name] for name in names))


def _age(text: str) -> timedelta:
    parsed = age_or_time(text)
    if not isinstance(parsed, timedelta):
        raise typer.BadParameter("expected an age like 24h or 5d")
    return parsed


GroupBy = Annotated[
    list[str] | None,
    typer.Option(
        "--group-by",
        metavar="KEY[,KEY]...",
        help=f"A row for each {', '.join(SHORT.get(key, key) for key in KEYS)}; repeatable.",
    ),
]
Maturity = Annotated[
    timedelta | None,
    typer.Option(parser=_age, metavar="AGE", help="Leave out decisions younger than this, such as 5d."),
]


@filtered
def stats(
    wanted: Filter,
    group_by: GroupBy = None,
    maturity: Maturity = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Say how good decisions were: rates, P&L, latency, tokens, cost; all together or group by group.

    success_rate is successful / total, resolved_success_rate successful / (successful + failed), with its
    95 % Wilson interval. Hours and days are those of UTC. At most the 1000 largest groups.
    """
    keys, loaded = keys_of(group_by or []), load(config_file, settings)
    mature = window(maturity, loaded)
    told = answer(
        loaded,
        lambda connection: decision_stats(connection, wanted, keys, maturity=mature),
    )
    if as_json:
        print_json(told)
    elif as_csv:
        rows = ({**msgspec.structs.asdict(group), **group.key} for group in told.groups)
        print_csv(rows, [*keys, *_COLUMNS])
    else:
        _print(told, keys)
    for remark in _remarks(told):
        typer.echo(remark, err=as_json or as_csv)


def _remarks(told: Answer) -> Iterator[str]:
    if told.left_out:
        yield f"{told.left_out:,} decisions are too young, and left out."
    if not told.complete:
        yield f"These are the {len(told.groups):,} largest groups; there are more."


def _print(told: Answer, keys: Sequence[Key]) -> None:
    out = console()
    if not any(group.total_decisions for group in told.groups):
        out.print("No decision is like that.")
    elif not keys:
        out.print(_one(told.groups[0]))
    else:
        out.print(_many(told.groups, keys))
        if days := {day for group in told.groups if (day := _day(group))}:
            out.print(_days(told.groups, keys, min(days), max(days)))


def _one(group: Stats) -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column()
    for name in _COLUMNS:
        value = getattr(group, name)
        bar = _bar(group, 25) if name == "resolved_success_rate" else Text()
        told = money if name.endswith("_pnl") and name != "stddev_pnl" else number
        text = _percent(value) if "rate" in name else told(value)
        table.add_row(name, text, bar)
    return table


def _many(groups: Sequence[Stats], keys: Sequence[Key]) -> Table:
    table = Table(box=None, pad_edge=False)
    for key in keys:
        table.add_column(key, overflow="fold")
    for name in ("decisions", "success_rate", "resolved_success_rate", "total_pnl"):
        table.add_column(name, justify="right", no_wrap=True)
    if times := [key for key in keys if key in {"hour", "day"}]:
        groups = sorted(groups, key=lambda group: [group.key[key] or "" for key in times])
    for group in groups:
        rate = Text(f"{_percent(group.resolved_success_rate):>6}")
        table.add_row(
            *(cell(group.key[key]) for key in keys),
            number(group.total_decisions),
            _percent(group.success_rate),
            rate.append(" ").append(_bar(group, 14)),
            money(group.total_pnl),
        )
    return table


def _day(group: Stats) -> date | None:
    """None: these are not of one day, have no time, or one that Python has not."""
    try:
        return date.fromisoformat(group.key.get("day") or "")
    except ValueError:
        return None


def _days(groups: Sequence[Stats], keys: Sequence[Key], first: date, last: date) -> Table:
    """The P&L of each day from the first to the last, a line for each group by the other keys."""
    days = [first + timedelta(days=n) for n in range((last - first).days + 1)]
    table = Table(box=None, pad_edge=False)
    others = [key for key in keys if key != "day"]
    for key in others:
        table.add_column(key, overflow="fold")
    table.add_column(f"total_pnl by day,\n{days[0]} to {days[-1]}", no_wrap=True)
    for name in ("least", "greatest"):
        table.add_column(f"\n{name}", justify="right", no_wrap=True)
    lines: dict[tuple[str | None, ...], dict[str | None, Any]] = {}
    for group in groups:
        line = lines.setdefault(tuple(group.key[key] for key in others), {})
        if group.total_pnl is not None and group.total_pnl.is_finite():
            line[group.key["day"]] = group.total_pnl
    for names, pnl in lines.items():
        known = pnl.values()
        ends = (money(end(known, default=None)) for end in (min, max))
        table.add_row(*map(cell, names), sparkline([pnl.get(str(day)) for day in days], 36), *ends)
    return table


def _percent(rate: float | None) -> str:
    return "-" if rate is None else f"{rate:.1%}"


def _bar(group: Stats, width: int) -> Text:
    if group.resolved_success_rate is None:
        return Text("·" * width, "dim")
    lower, upper = group.resolved_success_rate_lower, group.resolved_success_rate_upper
    return Text(interval_bar(group.resolved_success_rate, lower, upper, width), "cyan")
