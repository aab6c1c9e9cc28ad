"""Models selected out of a real record: policies, evidence, events; numbers compared with plain Python's."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import reading
from tracker_daemon.selection import (
    Choice,
    Policy,
    events,
    pin,
    policies,
    select_model,
    set_policy,
    switch_off,
    switch_on,
    unpin,
)

if TYPE_CHECKING:
    import asyncpg


def policy(*candidates: str, **fields: Any) -> Policy:
    """Say who decides the signals of momentum: a, b and c, and by default a."""
    names = candidates or ("a", "b", "c")
    known = {"agent_name": "momentum", "decision_type": "signal", "candidates": names, "default": names[0]}
    return Policy(**known | fields)


async def choose(sql: asyncpg.Connection, key: str = "1", candidates: list[str] | None = None) -> Choice:
    async with reading(sql):
        return await select_model(sql, "momentum", "signal", key, candidates)


async def test_without_any_evidence_all_candidates_are_chosen_alike(sql: asyncpg.Connection) -> None:
    await set_policy(sql, policy("a", "b"))
    chosen = [await choose(sql, str(key)) for key in range(20)]
    assert {choice.model for choice in chosen} == {"a", "b"}
    assert {choice.propensity for choice in chosen} == {Decimal("0.5")}


async def test_a_pin_and_a_switch_take_the_choice_from_the_policy(sql: asyncpg.Connection) -> None:
    await set_policy(sql, policy())
    await pin(sql, "momentum", "signal", "c", "the others are down")
    choice = await choose(sql)
    assert (choice.model, choice.why, choice.propensity) == ("c", "pinned", 1)
    await switch_off(sql)
    choice = await choose(sql)
    assert (choice.model, choice.why) == ("a", "switched_off")
    await switch_off(sql, "momentum", "signal")
    await switch_on(sql)
    assert (await choose(sql)).why == "switched_off"
    await switch_on(sql, "momentum", "signal")
    assert (await choose(sql)).why == "pinned"
    await unpin(sql, "momentum", "signal")
    assert (await choose(sql)).why == "policy"
    told = [(event.agent_name, event.kind) for event in await events(sql)]
    assert told[-3:] == [(None, "switched_off"), ("momentum", "pinned"), ("momentum", "defined")]
    assert len(told) == 7
    [standing] = await policies(sql)
    assert standing.policy == policy()


async def test_what_nothing_can_be_chosen_for_is_refused_in_words(sql: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match="no policy says"):
        await choose(sql)
    await set_policy(sql, policy())
    with pytest.raises(InvalidQuestion, match="x is no candidate of momentum/signal; there are a, b, c"):
        await choose(sql, candidates=["a", "x"])
    with pytest.raises(InvalidQuestion, match="no candidate to choose"):
        await choose(sql, candidates=[])
    with pytest.raises(InvalidQuestion, match="x is no candidate"):
        await pin(sql, "momentum", "signal", "x")
    await pin(sql, "momentum", "signal", "c")
    with pytest.raises(InvalidQuestion, match="only c may decide"):
        await choose(sql, candidates=["a", "b"])
    with pytest.raises(InvalidQuestion, match="c is pinned"):
        await set_policy(sql, policy("a", "b"))
