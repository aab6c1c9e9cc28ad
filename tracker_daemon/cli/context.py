"""`tracker-daemon context`."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import print_json, write
from tracker_daemon.cli.question import answer, filtered, json_object, window
from tracker_daemon.cli.stats import Maturity
from tracker_daemon.queries import (
    MAX_TOKEN_BUDGET,
    TOKEN_BUDGET,
    Filter,
    Quoting,
    Situation,
    fit_briefing,
    gather_facts,
)


@filtered
def context(
    wanted: Filter,
    situation: Annotated[
        dict[str, Any],
        typer.Argument(
            parser=json_object, metavar="SITUATION", help='A context: {"rsi": 62, "macd": {"line": 0.4}}.'
        ),
    ],
    budget: Annotated[
        int, typer.Option(min=1, max=MAX_TOKEN_BUDGET, help="Tokens at most, estimated on the large side.")
    ] = TOKEN_BUDGET,
    quoting: Annotated[
        Quoting, typer.Option(help="What to quote of stored texts; all: prompts, too.")
    ] = "responses",
    maturity: Maturity = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Print what the record says to an agent in a situation, to be put into the prompt of its model.

    Success in similar situations, the record, what a confidence is worth, open and latest decisions: whole
    lines, what matters most within the budget. Stored texts are quoted in it so that they stay data.
    """
    loaded = load(config_file, settings)
    asked, mature = Situation(context=situation), window(maturity, loaded)
    facts = answer(
        loaded,
        lambda connection: gather_facts(connection, wanted, asked, quoting=quoting, maturity=mature),
    )
    briefing = fit_briefing(facts, budget)
    if as_json:
        print_json(briefing)
    else:
        write(briefing.text.encode())
