"""`tracker-daemon select`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

import typer

from tracker_daemon.choices import Select
from tracker_daemon.choices.memory import BOUND_SECONDS, REFRESH_SECONDS
from tracker_daemon.cli.options import ConfigFile, Json, Set, load
from tracker_daemon.cli.output import print_json
from tracker_daemon.cli.question import act, answer, window
from tracker_daemon.cli.standings import Shown, print_events, print_results, print_standing
from tracker_daemon.cli.stats import Maturity
from tracker_daemon.cli.terminal import visible
from tracker_daemon.config import Settings
from tracker_daemon.experiments import Illegible
from tracker_daemon.postgres import Connection
from tracker_daemon.queries import asked
from tracker_daemon.selection import (
    Policy,
    Snapshot,
    events,
    pin,
    selection_results,
    set_policy,
    switch_off,
    switch_on,
    unpin,
)

app = typer.Typer(no_args_is_help=True, help="Which model decides: a policy, its evidence, pins, switches.")

Agent = Annotated[str, typer.Argument(metavar="AGENT", help="What decisions carry as their agent_name.")]
Type = Annotated[str, typer.Argument(metavar="TYPE", help="What they carry as their decision_type.")]
AnyAgent = Annotated[str | None, typer.Argument(metavar="AGENT", help="With TYPE; all, if neither is given.")]
AnyType = Annotated[str | None, typer.Argument(metavar="TYPE")]
Reason = Annotated[str, typer.Option(help="Why; kept, and said on llm.alerts.")]


@app.command("set")
def set_(
    agent: Agent,
    type_: Type,
    candidate: Annotated[list[str], typer.Option(metavar="MODEL", help="Who may decide; repeatable.")],
    default: Annotated[str, typer.Option(metavar="MODEL", help="Who decides when nothing may be chosen.")],
    policy: Annotated[
        str,
        typer.Option(
            help="thompson: each as often as it is probably the best; epsilon: the best, but one in ten any; "
            "best; fixed: the default."
        ),
    ] = "thompson",
    metric: Annotated[str, typer.Option(help="success, or pnl less cost.")] = "success",
    epsilon: Annotated[float, typer.Option(help="The part that goes to all alike.")] = 0.1,
    half_life_days: Annotated[float, typer.Option(help="After which evidence counts half.")] = 14.0,
    maturity_days: Annotated[float, typer.Option(help="How old decisions are that count.")] = 0.0,
    floor: Annotated[float | None, typer.Option(help="Below which a candidate is benched.")] = None,
    minimum_evidence: Annotated[float, typer.Option(help="Decisions without which none is.")] = 30.0,
    bench_days: Annotated[float, typer.Option(help="After which it is tried again.")] = 7.0,
    least_share: Annotated[float, typer.Option(help="What each candidate is given.")] = 0.01,
    reason: Reason = "",
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Have models chosen by a policy from now on; another one for the same begins anew."""
    chosen = Policy(
        agent_name=agent,
        decision_type=type_,
        candidates=tuple(candidate),
        default=default,
        policy=policy,  # type: ignore[arg-type] # as the metric, `set_policy` looks
        metric=metric,  # type: ignore[arg-type]
        epsilon=epsilon,
        half_life_days=half_life_days,
        maturity_days=maturity_days,
        floor=floor,
        minimum_evidence=minimum_evidence,
        bench_days=bench_days,
        least_share=least_share,
    )
    _act(
        load(config_file, settings),
        lambda connection: set_policy(connection, chosen, reason),
        f"{chosen.whom} is decided by {policy} among {', '.join(candidate)}",
    )


@app.command("pin")
def pin_(
    agent: Agent,
    type_: Type,
    model: Annotated[str, typer.Argument(metavar="MODEL", help="One of the candidates.")],
    reason: Reason = "",
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Have one model decide, whatever the policy says."""
    _act(
        load(config_file, settings),
        lambda connection: pin(connection, agent, type_, model, reason),
        f"{agent}/{type_} is decided by {model} alone",
    )


@app.command("unpin")
def unpin_(
    agent: Agent, type_: Type, reason: Reason = "", config_file: ConfigFile = None, settings: Set = None
) -> None:
    """Have the policy say again which model decides."""
    _act(
        load(config_file, settings),
        lambda connection: unpin(connection, agent, type_, reason),
        f"{agent}/{type_} is decided by its policy",
    )


@app.command()
def off(
    agent: AnyAgent = None,
    type_: AnyType = None,
    reason: Reason = "",
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Have the default decide, whatever policy and pin say: for all agents, or for one and a type."""
    whom = f"{agent}/{type_} is" if agent else "all agents are"
    _act(
        load(config_file, settings),
        lambda connection: switch_off(connection, agent, type_, reason),
        f"{whom} decided by the default",
    )


@app.command("on")
def on_(
    agent: AnyAgent = None,
    type_: AnyType = None,
    reason: Reason = "",
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Take `off` back; what was switched off by itself stays so when all are switched on."""
    whom = f"{agent}/{type_} is" if agent else "all agents that were not switched off by themselves are"
    _act(
        load(config_file, settings),
        lambda connection: switch_on(connection, agent, type_, reason),
        f"{whom} decided by policy or pin",
    )


@app.command()
def show(
    agent: AnyAgent = None,
    type_: AnyType = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Show each policy: what its candidates have shown, and how often each is chosen now."""
    if (agent is None) != (type_ is None):
        raise typer.BadParameter("name both AGENT and TYPE, or neither")
    only = (agent, type_) if agent is not None and type_ is not None else None
    models = answer(load(config_file, settings), lambda connection: Snapshot.load(connection, only))
    found = [
        Shown(standing=contest.standing, all_off=models.known.off, candidates=contest.candidates())
        for _, contest in sorted(models.contests.items())
    ]
    illegible = models.known.illegible.values() if only is None else ()
    if as_json:
        print_json(found)
    elif not found and not illegible:
        typer.echo("No policy says which model decides; see tracker-daemon select set.")
    else:
        for each in found:
            print_standing(each)
    if illegible:
        raise Illegible("\n".join(illegible))


@app.command()
def choose(
    agent: Agent,
    type_: Type,
    key: Annotated[str, typer.Argument(metavar="KEY", help="What is decided about, such as a session.")],
    candidate: Annotated[
        list[str] | None, typer.Option(metavar="MODEL", help="Only among these; repeatable.")
    ] = None,
    config_file: ConfigFile = None,
    settings: Set = None,
) -> None:
    """Print as JSON which model decides about a key now."""
    fields = {"agent_name": agent, "decision_type": type_, "key": key, "candidates": candidate}
    question = asked(fields, Select)
    print_json(answer(load(config_file, settings), question.answer))


@app.command()
def results(
    agent: Agent,
    type_: Type,
    maturity: Maturity = None,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """Say what the models have shown since the policy was set, by inverse propensity (extra learn).

    So they are compared over the same times, though one was chosen more often while it did well. Intervals
    are those of 95 %, each by itself.
    """
    loaded = load(config_file, settings)
    age = window(maturity, loaded)
    found = answer(loaded, lambda connection: selection_results(connection, agent, type_, maturity=age))
    if as_json:
        print_json(found)
    else:
        print_results(found)


@app.command("events")
def events_(
    agent: Annotated[str | None, typer.Option(help="Only of this one, and what is about all.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    config_file: ConfigFile = None,
    settings: Set = None,
    as_json: Json = False,
) -> None:
    """List what was changed, the latest first: policies, pins, switches, benched and leading candidates."""
    found = answer(load(config_file, settings), lambda connection: events(connection, agent, limit))
    if as_json:
        print_json(found)
    else:
        print_events(found)


def _act(settings: Settings, deed: Callable[[Connection], Awaitable[Any]], done: str) -> None:
    act(settings, deed)
    typer.echo(visible(f"{done}."))
    typer.echo(
        f"Daemons know in {REFRESH_SECONDS:g} s, as a rule, and go by nothing older than {BOUND_SECONDS:g} s."
    )
