"""`tracker-daemon experiment`."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Table

from tracker_daemon.choices import Assign
from tracker_daemon.cli.options import ConfigFile, Json, Set, load, moment
from tracker_daemon.cli.output import cell, print_json
from tracker_daemon.cli.question import act, answer, json_object, window
from tracker_daemon.cli.stats import Maturity
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.experiments import (
    METRICS,
    Arm,
    Definition,
    Difference,
    Experiment,
    Illegible,
    Mean,
    OfArm,
    Results,
    Weighted,
    WeightedMean,
    begin,
    experiment_results,
    experiments,
    find,
    stop,
)
from tracker_daemon.postgres import Connection
from tracker_daemon.queries import asked

app = typer.Typer(
    no_args_is_help=True, help="Which way to decide is the better one: create, list, stop, results."
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="See experiment list.")]


def _arm(text: str) -> Arm:
    given = dict(part.partition("=")[::2] for part in text.split(","))
    try:
        return msgspec.convert(given, Arm, strict=False)
    except msgspec.ValidationError as error:
        raise typer.BadParameter(
            f"{error}; expected name=NAME,share=0.5 and maybe model=MODEL, prompt_version=VERSION"
        ) from None


def _metric(text: str) -> str:
    if text not in METRICS:
        raise typer.BadParameter(f"expected one of {', '.join(METRICS)}")
    return text


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What decisions carry as their experiment.")],
    arm: Annotated[
        list[Arm],
        typer.Option(
            parser=_arm,
            metavar="name=NAME,share=SHARE[,model=MODEL][,prompt_version=VERSION]",
            help="One way to decide; the first is the control. Repeatable.",
        ),
    ],
    minimum_effect: Annotated[
        float, typer.Option(help="The least difference that matters: 0.05 of the success rate, or of P&L 10.")
    ],
    metric: Annotated[
        str, typer.Option(parser=_metric, metavar="METRIC", help="success or pnl.")
    ] = "success",
    parameters: Annotated[
        list[str] | None,
        typer.Option(metavar="ARM=JSON", help="What else an arm decides by; repeatable."),
    ] = None,
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Begin an experiment. It cannot be changed afterwards."""
    extra = dict(map(_parameters, parameters or ()))
    if unknown := extra.keys() - {each.name for each in arm}:
        raise typer.BadParameter(f"there are parameters of {min(unknown)}, which is no arm")
    arms = tuple(msgspec.structs.replace(each, parameters=extra.get(each.name, {})) for each in arm)
    definition = Definition(name=name, arms=arms, minimum_effect=minimum_effect, metric=metric)  # type: ignore[arg-type] # _metric has looked
    begun = act(load(config_file, settings), lambda connection: begin(connection, definition))
    typer.echo(visible(f"{name} runs since {begun.started_at:%Y-%m-%d %H:%M:%S} UTC."))


@app.command("list")
def list_(config_file: ConfigFile = None, settings: Set = None, as_json: Json = False) -> None:
    """List the experiments, the latest first."""
    found = answer(load(config_file, settings), experiments)
    if as_json:
        print_json(found.legible)
    elif not found.legible and not found.illegible:
        typer.echo("There is no experiment yet; see tracker-daemon experiment create.")
    else:
        _print_list(found.legible)
    if found.illegible:
        raise Illegible("\n".join(found.illegible.values()))


@app.command("stop")
def stop_(name: Name, config_file: ConfigFile = None, settings: Set = None) -> None:
    """Stop an experiment for good; its results stay."""
    stopped = act(load(config_file, settings), lambda connection: stop(connection, name))
    typer.echo(visible(f"{name} is stopped since {stopped.stopped_at:%Y-%m-%d %H:%M:%S} UTC."))


@app.command("assign")
def assign_(
    name: Name,
    unit: Annotated[str, typer.Argument(metavar="UNIT", help="What is assigned, such as a session's id.")],
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Print as JSON which arm a unit gets, as long as the experiment runs always the same."""
    question = asked({"experiment": name, "unit": unit}, Assign)
    print_json(answer(load(config_file, settings), question.answer))


@app.command()
def results(
    name: Name,
    maturity: Maturity = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(parser=moment, metavar="AGE|TIME", help="As it was then."),
    ] = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say what an experiment has shown so far (extra learn).

    Intervals are those of 95 %, for all arms together. The one that always holds may be watched every day;
    the others, and the p-value, hold for one look at a time that was fixed before.
    """
    loaded = load(config_file, settings)
    found = answer(loaded, lambda c: _results(c, name, window(maturity, loaded), as_of))
    if as_json:
        print_json(found)
    else:
        print_results(found)


async def _results(connection: Connection, name: str, maturity: timedelta, as_of: datetime | None) -> Results:
    return await experiment_results(connection, await find(connection, name), maturity=maturity, as_of=as_of)


def _parameters(text: str) -> tuple[str, dict[str, Any]]:
    arm, _, value = text.partition("=")
    return arm, json_object(value)


def _print_list(found: list[Experiment]) -> None:
    table = Table(box=None, pad_edge=False)
    for name in ("name", "metric", "arms", "started", "stopped"):
        table.add_column(name)
    for each in found:
        arms = ", ".join(f"{arm.name} {arm.share:.0%}" for arm in each.definition.arms)
        about = each.definition
        table.add_row(*map(cell, (about.name, about.metric, arms, each.started_at, each.stopped_at)))
    console().print(table)


def print_results(found: Results) -> None:
    """Print arms, differences, and the verdict, for a reader."""
    out = console()
    table = Table(box=None, pad_edge=False)
    table.add_column("arm\nshare", overflow="fold")
    for name in ("units\ndecisions", "pending\nimmature"):
        table.add_column(name, justify="right")
    for name in ("success rate\n95 % interval", "mean P&L\n95 % interval"):
        table.add_column(name, justify="right")
    for arm in found.arms:
        table.add_row(
            cell(arm.name).append(f"\n{arm.share:.0%}"),
            f"{arm.units:,}\n{arm.exposures:,}",
            f"{arm.pending:,}\n{arm.immature:,}",
            mean(arm.success, ".1%"),
            mean(arm.pnl, ",.2f"),
        )
    out.print(table)
    control = visible(found.arms[0].name)
    for arm in found.arms[1:]:
        for line in _differences(arm):
            typer.echo(f"{visible(arm.name)} less {control}: {line}")
    for arm in found.arms:
        if arm.weighted is not None:
            typer.echo(f"{visible(arm.name)} by inverse propensity: {_weighted(arm.weighted)}")
    typer.echo(visible(found.verdict.text))


def mean(told: Mean | WeightedMean, form: str) -> str:
    """A mean, and its interval under it."""
    if told.mean is None:
        return "-"
    if told.lower is None:
        return f"{told.mean:{form}}"
    return f"{told.mean:{form}}\n{told.lower:{form}} to {told.upper:{form}}"


def _weighted(told: Weighted) -> str:
    means = (("success rate", told.success, ".1%"), ("mean P&L", told.pnl, ",.2f"))
    said = [f"{name} {_estimate(each, form)}" for name, each, form in means if each.mean is not None]
    if told.left_out:
        said.append(f"left out are {told.left_out:,} decisions without a propensity")
    return "; ".join(said)


def _estimate(told: WeightedMean, form: str) -> str:
    if told.lower is None:
        return f"{told.mean:{form}} (as of {told.effective:,.0f} units)"
    return (
        f"{told.mean:{form}}, {told.lower:{form}} to {told.upper:{form}} (as of {told.effective:,.0f} units)"
    )


def _differences(arm: OfArm) -> list[str]:
    told = (("success rate", arm.success_difference, "+.1%"), ("mean P&L", arm.pnl_difference, "+,.2f"))
    return [f"{name} {_difference(each, form)}" for name, each, form in told if each is not None]


def _difference(each: Difference, form: str) -> str:
    said = (
        f"{each.estimate:{form}}; at one look {each.lower:{form}} to {each.upper:{form}} "
        f"(p {each.p_value:.3g}), at any {each.always_lower:{form}} to {each.always_upper:{form}}"
    )
    if each.resampled_lower is not None:
        said += f", resampled {each.resampled_lower:{form}} to {each.resampled_upper:{form}}"
    return said
