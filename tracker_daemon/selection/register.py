"""Policies, pins and switches: set by an operator, each change kept with its reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.postgres import translated
from tracker_daemon.queries import asked
from tracker_daemon.selection.events import EVERYBODY, Change, Overtaken, keep
from tracker_daemon.selection.policy import Policy
from tracker_daemon.selection.standing import Standing, Standings, standings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.postgres import Connection
    from tracker_daemon.selection.events import Kind


async def policies(connection: Connection) -> list[Standing]:
    """Return each policy that can be read with what is in force beside it, by agent and decision type."""
    with translated():
        async with connection.transaction(readonly=True):
            found = (await standings(connection)).of
    return [found[key] for key in sorted(found)]


async def set_policy(connection: Connection, policy: Policy, reason: str = "") -> None:
    """Have models chosen by this policy from now on; one that is set already stays as it is.

    Another one begins anew: nothing is benched, all evidence counts. Raises `InvalidQuestion` where a pinned
    model is no candidate any more.
    """
    definition = msgspec.to_builtins(policy)
    try:
        asked(definition, Policy)
    except InvalidQuestion as error:
        raise InvalidQuestion(f"this is no policy: {error}") from error

    def defined(now: Standings) -> Change | None:
        standing = now.of.get((policy.agent_name, policy.decision_type))
        if standing is not None and standing.policy == policy:
            return None
        pinned = standing.pinned if standing is not None else None
        if pinned is not None and pinned not in policy.candidates:
            raise InvalidQuestion(f"{pinned} is pinned for {policy.whom}: unpin it, or keep it a candidate")
        return Change(
            agent_name=policy.agent_name,
            decision_type=policy.decision_type,
            kind="defined",
            reason=_said(f"{policy.policy} among {', '.join(policy.candidates)}", reason),
            figures=definition,
        )

    await _record(connection, defined)


async def pin(
    connection: Connection, agent_name: str, decision_type: str, model: str, reason: str = ""
) -> None:
    """Have one model decide, whatever the policy says, until it is unpinned."""

    def pinned(now: Standings) -> Change | None:
        standing = now.find(agent_name, decision_type)
        if model not in standing.policy.candidates:
            raise InvalidQuestion(
                f"{model} is no candidate of {standing.policy.whom}; there are "
                f"{', '.join(standing.policy.candidates)}"
            )
        if standing.pinned == model:
            return None
        return _change(standing, "pinned", _said(f"{model} decides, whatever the policy says", reason), model)

    await _record(connection, pinned)


async def unpin(connection: Connection, agent_name: str, decision_type: str, reason: str = "") -> None:
    """Have the policy say again which model decides."""

    def unpinned(now: Standings) -> Change | None:
        standing = now.find(agent_name, decision_type)
        if standing.pinned is None:
            return None
        said = _said(f"the policy decides again, not {standing.pinned} alone", reason)
        return _change(standing, "unpinned", said)

    await _record(connection, unpinned)


async def switch_off(
    connection: Connection,
    agent_name: str | None = None,
    decision_type: str | None = None,
    reason: str = "",
) -> None:
    """Have the default decide, whatever policy and pin say: for one agent and decision type, or for all."""
    await _switch(connection, agent_name, decision_type, "switched_off", reason)


async def switch_on(
    connection: Connection,
    agent_name: str | None = None,
    decision_type: str | None = None,
    reason: str = "",
) -> None:
    """Take `switch_off` back; what was switched off by itself stays so when all are switched on."""
    await _switch(connection, agent_name, decision_type, "switched_on", reason)


async def _switch(
    connection: Connection, agent_name: str | None, decision_type: str | None, kind: Kind, reason: str
) -> None:
    if (agent_name is None) != (decision_type is None):
        raise InvalidQuestion("name both agent and decision type, or neither: then it is about all")
    off = kind == "switched_off"
    said = _said("the default decides" if off else "the policy decides again", reason)

    def switched(now: Standings) -> Change | None:
        if agent_name is None or decision_type is None:
            everybody = Change(agent_name=EVERYBODY, decision_type=None, kind=kind, reason=said)
            return everybody if now.off != off else None
        standing = now.find(agent_name, decision_type)
        return _change(standing, kind, said) if standing.off != off else None

    await _record(connection, switched)


async def _record(connection: Connection, judge: Callable[[Standings], Change | None]) -> None:
    """Keep what is to be changed about what is in force, once nobody else changes it meanwhile."""
    while True:
        try:
            with translated():
                async with connection.transaction():
                    now = await standings(connection)
                    change = judge(now)
                    await keep(connection, [change] if change else [], now.numbers)
        except Overtaken:
            continue
        return


def _change(standing: Standing, kind: Kind, reason: str, model: str | None = None) -> Change:
    policy = standing.policy
    return Change(
        agent_name=policy.agent_name,
        decision_type=policy.decision_type,
        kind=kind,
        model=model,
        reason=reason,
    )


def _said(what: str, reason: str) -> str:
    return f"{what}: {reason}" if reason else what
