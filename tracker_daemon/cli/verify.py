"""`tracker-daemon verify`."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec
import orjson
import typer
from rich.table import Table

from tracker_daemon import logs
from tracker_daemon.cli.options import ConfigFile, Json, Set, load, moment
from tracker_daemon.cli.terminal import Terminal
from tracker_daemon.config import Settings
from tracker_daemon.contract import contract_of
from tracker_daemon.verify import MAX_HOLES, Fate, Verification
from tracker_daemon.verify import verify as compare

SHOWN_HOLES: Final = 20

Since = Annotated[
    datetime | None,
    typer.Option(
        parser=moment,
        metavar="AGE|TIME",
        help="Only what the stream stored since: 24h, 30d, or an ISO time.",
    ),
]

_KINDS = {"missing": "no row, no dead letter", "not_projected": "outcome not the latest"}
_MISSING = (
    "Missing: acknowledged, and in no table. Rows were deleted, or a dead letter was purged before it was "
    "replayed; if nobody did that, it is a defect, please report it. The stream still has these messages: "
    "run the daemon with another TRACKER_NATS_DURABLE, which consumes the whole stream once more and leaves "
    "what has its row as it is."
)
_NOT_PROJECTED = (
    "Outcome not the latest: these decisions show something else than the latest event of llm_outcomes; "
    "somebody has changed them, or the ledger. Set outcome, pnl, outcome_at and outcome_sequence of their "
    "rows to NULL: another TRACKER_NATS_DURABLE, or the next event of the decision, fills them again."
)


def verify(
    since: Since = None, config_file: ConfigFile = None, settings: Set = None, as_json: Json = False
) -> None:
    """Compare the stream with the tables: what has a row, is a dead letter, waits, or is missing.

    It only reads, and may do so beside a running daemon. Exit code 1: there is a hole, or a server is away.
    """
    loaded = load(config_file, settings)
    quiet = loaded.log.model_copy(update={"level": "critical"})  # the errors say it all
    logs.configure(quiet, loaded.redact.redactor)
    seen = asyncio.run(compare(loaded, contract_of(loaded), since))
    if as_json:
        typer.echo(orjson.dumps(_document(seen, loaded, since), option=orjson.OPT_INDENT_2))
    else:
        _print(seen, loaded)
    raise typer.Exit(0 if seen.ok else 1)


def _document(seen: Verification, settings: Settings, since: datetime | None) -> dict[str, Any]:
    return {
        "ok": seen.ok,
        "stream": settings.nats.stream,
        "durable": settings.nats.durable if seen.durable_exists else None,
        "since": since,
        "last_sequence": seen.last_sequence,
        "floor": seen.floor,
        "subjects": {subject: _figures(fates) for subject, fates in seen.subjects.items()},
        "acknowledged_in_flight": seen.acknowledged_in_flight,
        "not_projected": seen.not_projected,
        "projecting": seen.projecting,
        "gone": seen.gone,
        "holes": msgspec.to_builtins(seen.holes),
    }


def _figures(fates: Counter[Fate]) -> dict[str, int]:
    return {
        "messages": fates.total(),
        "rows": fates["row"],
        "dead_letters": fates["dead_letter"],
        "expired": fates["expired"],
        "in_flight": fates["in_flight"],
        "waiting": fates["waiting"],
        "missing": fates["missing"],
    }


def _print(seen: Verification, settings: Settings) -> None:
    console = Terminal(highlight=False)
    table = Table(box=None, pad_edge=False)
    table.add_column("subject", overflow="fold")
    for name in _figures(Counter()):  # headings of two lines leave 80 columns room for millions
        table.add_column(name.replace("_", "\n"), justify="right")
    for subject, fates in seen.subjects.items():
        table.add_row(subject, *(f"{figure:,}" for figure in _figures(fates).values()))
    console.print(table)
    for sentence in _remarks(seen, settings):
        console.print(sentence, markup=False)
    if seen.holes:
        console.print(_listing(seen))
    if (more := len(seen.holes) - SHOWN_HOLES) > 0:
        console.print(f"… and {more:,} more: see --json")
    if seen.unnamed:
        console.print(
            f"Another {seen.unnamed:,} are only counted: at most {MAX_HOLES:,} are named, in --json too."
        )
    if seen.missing:
        console.print(_MISSING, markup=False)
    if seen.not_projected:
        console.print(_NOT_PROJECTED, markup=False)
    console.print(_verdict(seen), markup=False)


def _remarks(seen: Verification, settings: Settings) -> Iterator[str]:
    """What the table does not say, a sentence each, as far as there is anything to say."""
    if not seen.durable_exists:
        yield f"There is no durable consumer {settings.nats.durable}: what has no row waits for it."
    if seen.gone:
        yield f"{seen.gone:,} messages are no longer in the stream (expired or deleted): not verifiable."
    if seen.expired:
        yield (
            f"{seen.expired:,} messages have expired: they are older than what was pruned, or outcomes of "
            "which it cannot be told whether they went with their decision, which is in no table either."
        )
    if seen.projecting:
        yield (
            f"{seen.projecting:,} decisions do not show their latest outcome yet; it cannot be told whether "
            "a message about them still waits for its acknowledgement: verify again."
        )
    if seen.acknowledged_in_flight:
        yield (
            f"At least {seen.acknowledged_in_flight:,} of the messages in flight are missing, as the durable "
            "consumer waits for fewer acknowledgements; it cannot be told which ones."
        )


def _listing(seen: Verification) -> Table:
    # Two lines a hole, so that a terminal of 80 columns shows the whole id.
    table = Table(box=None, pad_edge=False)
    table.add_column("sequence", justify="right")
    table.add_column("subject, stored in the stream", overflow="fold")
    table.add_column("decision, hole", no_wrap=True)
    for hole in seen.holes[:SHOWN_HOLES]:
        table.add_row(
            str(hole.sequence),
            f"{hole.subject}\n{hole.published_at:%Y-%m-%d %H:%M:%S}",
            f"{hole.decision_id or 'not known'}\n{_KINDS[hole.kind]}",
        )
    return table


def _verdict(seen: Verification) -> str:
    if not seen.ok:
        parts = {"missing": seen.missing, "with another outcome than the ledger's": seen.not_projected}
        return "HOLES: " + ", ".join(f"{count:,} {what}" for what, count in parts.items() if count)
    nothing = "No message is missing" if seen.projecting else "No hole"
    if not seen.in_flight:
        there = "in the tables or has expired" if seen.expired else "in the tables"
        return f"{nothing} up to sequence {seen.last_sequence}: all that is acknowledged is {there}."
    return (
        f"{nothing} up to sequence {seen.floor}. Of {seen.in_flight:,} delivered messages above it that are "
        "in no table it cannot be told whether all still wait for their acknowledgement: verify again."
    )
