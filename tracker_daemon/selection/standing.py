"""What is in force, agent by agent: the sum of all that was ever changed."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

import msgspec
from msgspec import Struct, field

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.experiments import Illegible
from tracker_daemon.selection.events import EVERYBODY
from tracker_daemon.selection.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from tracker_daemon.postgres import Connection

# The last of each kind is enough: of any two that contradict each other the later one holds.
_LAST: Final = """
SELECT DISTINCT ON (agent_name, decision_type, kind, model)
       agent_name, decision_type, kind, model, figures, created_at, number
FROM llm_selection_events ORDER BY agent_name, decision_type, kind, model, number DESC
"""


class Standing(Struct, frozen=True, kw_only=True):
    """A policy, and what has happened since it was set.

    `benched`: the candidates that are, and since when; `since`: from when on the evidence of a candidate
    counts that was benched before. The switch and the pin outlast the policy.
    """

    policy: Policy
    defined_at: datetime
    off: bool = False
    pinned: str | None = None
    leader: str | None = None
    benched: dict[str, datetime] = field(default_factory=dict)
    since: dict[str, datetime] = field(default_factory=dict)


class Standings(Struct, frozen=True):
    """Those of all agents and decision types; whether all are switched off; the last number of each agent.

    `illegible`: of which there is a policy that nothing can be chosen by, and why not.
    """

    of: dict[tuple[str, str], Standing]
    off: bool
    numbers: dict[str, int]
    illegible: dict[tuple[str, str], str]

    def find(self, agent_name: str, decision_type: str) -> Standing:
        """Return one; raise `InvalidQuestion` where there is none, `Illegible` where it cannot be read."""
        if why := self.illegible.get((agent_name, decision_type)):
            raise Illegible(why)
        found = self.of.get((agent_name, decision_type))
        if found is None:
            raise InvalidQuestion(
                f"no policy says which model decides for {agent_name}/{decision_type}; set one with "
                "tracker-daemon select set"
            )
        return found


async def standings(connection: Connection) -> Standings:
    """Read what is in force; ask in a transaction."""
    return added_up(map(dict, await connection.fetch(_LAST)))


def added_up(events: Iterable[Mapping[str, Any]]) -> Standings:
    """Return what events, in any order, come to."""
    told: dict[tuple[str, str | None], dict[str, Any]] = {}
    numbers: dict[str, int] = {}
    for event in sorted(events, key=lambda event: event["number"]):
        agent = event["agent_name"]
        numbers[agent] = event["number"]
        _add(told.setdefault((agent, event["decision_type"]), {}), event)
    off = told.pop((EVERYBODY, None), {}).get("off", False)
    known = Standings({}, off, numbers, {})
    for (agent, type_), fields in told.items():
        if type_ is not None and "policy" in fields:
            try:
                known.of[agent, type_] = _standing(fields)
            except Illegible as error:
                known.illegible[agent, type_] = f"the policy of {agent}/{type_} cannot be read: {error}"
    return known


def _standing(fields: Mapping[str, Any]) -> Standing:
    """What the fields come to; those of a policy that only a later version knows do not count."""
    try:
        policy = msgspec.json.decode(fields["policy"], type=Policy)
    except (msgspec.DecodeError, InvalidQuestion, RecursionError) as error:
        raise Illegible(
            f"{error}; if a later version of tracker-daemon has set it, update this one, else set it anew"
        ) from error
    pinned = fields.get("pinned")
    if pinned is not None and pinned not in policy.candidates:
        raise Illegible(f"{pinned} is pinned, and no candidate; set one in which it is, and unpin it then")
    return Standing(**{**fields, "policy": policy})


def _add(fields: dict[str, Any], event: Mapping[str, Any]) -> None:
    """Change the fields of a standing as an event says."""
    model, at = event["model"], event["created_at"]
    match event["kind"]:
        case "defined":
            fields |= {"policy": event["figures"], "defined_at": at}
            fields |= {"leader": None, "benched": {}, "since": {}}
        case "promoted":
            fields["leader"] = model
        case "benched":
            fields.setdefault("benched", {})[model] = at
        case "retried":
            fields.get("benched", {}).pop(model, None)
            fields.setdefault("since", {})[model] = at
        case "pinned" | "unpinned":
            fields["pinned"] = model if event["kind"] == "pinned" else None
        case "switched_off" | "switched_on":
            fields["off"] = event["kind"] == "switched_off"
