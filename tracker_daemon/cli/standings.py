"""How policies stand, what their models have shown, and what was changed about them: on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypedDict

import typer
from rich.table import Table

from tracker_daemon.cli.experiment import mean
from tracker_daemon.cli.output import cell, number
from tracker_daemon.cli.terminal import console, visible
from tracker_daemon.selection import Candidate, Standing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.selection import Event, SelectionResults


class Shown(TypedDict):
    """A policy, what is in force beside it, and how its candidates stand."""

    standing: Standing
    all_off: bool
    candidates: tuple[Candidate, ...]


def print_standing(shown: Shown) -> None:
    """Print a policy, and its candidates, for a reader."""
    standing, policy = shown["standing"], shown["standing"].policy
    said = f"{policy.whom}: {policy.policy} by {policy.metric}, default {policy.default}"
    said += f", leader {standing.leader}" if standing.leader else ""
    said += f"; pinned is {standing.pinned}" if standing.pinned else ""
    said += "; switched off" if standing.off else ""
    said += "; all are switched off" if shown["all_off"] else ""
    typer.echo(visible(said))
    table = _table(
        "model", "chosen", "best with", "mean", "decisions\npending", "as of\nnow", "benched since"
    )
    form = ".1%" if policy.metric == "success" else ",.2f"
    for each in shown["candidates"]:
        table.add_row(
            cell(each.model),
            f"{each.propensity:.1%}",
            f"{each.best:.1%}",
            f"{each.mean:{form}}",
            f"{each.decisions:,}\n{each.pending:,}",
            number(round(each.weight, 1)),
            cell(each.benched_since),
        )
    console().print(table)


def print_results(found: SelectionResults) -> None:
    """Print the models, by inverse propensity, for a reader."""
    table = _table(
        "model",
        "decisions\npending",
        "success rate\n95 % interval",
        "mean P&L\n95 % interval",
        "as of\nunits",
    )
    for each in found.models:
        table.add_row(
            cell(each.model),
            f"{each.decisions:,}\n{each.pending:,}",
            mean(each.weighted.success, ".1%"),
            mean(each.weighted.pnl, ",.2f"),
            f"{each.weighted.success.effective:,.0f}",
        )
    console().print(table)
    typer.echo(
        f"Since {found.since:%Y-%m-%d %H:%M:%S} UTC, by inverse propensity. Left out: {found.alone:,} "
        f"decisions that one model alone might make, {found.others:,} that the policy did not choose."
    )


def print_events(found: Sequence[Event]) -> None:
    """Print what was changed, for a reader."""
    table = _table("when\nby", "whom\nwhat", "why")
    for each in found:
        whom = f"{each.agent_name}/{each.decision_type}" if each.agent_name else "all agents"
        table.add_row(
            cell(each.created_at).append(f"\n{visible(each.role)}"),
            cell(whom).append(f"\n{each.kind.replace('_', ' ')}"),
            cell(each.reason),
        )
    console().print(table if found else "Nothing has been changed yet.")


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in columns:
        table.add_column(name)
    return table
