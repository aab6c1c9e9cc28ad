"""How often each candidate is chosen, exactly, and which one a key gets."""

from __future__ import annotations

from decimal import Decimal
from hashlib import sha256
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tracker_daemon.selection.chances import Chances
    from tracker_daemon.selection.policy import Policy

PLACES: Final = 10
"""As many as `propensity` has in the table."""
_UNITS: Final = 10**PLACES
_BITS: Final = 64


def propensities(
    policy: Policy, names: Sequence[str], means: Mapping[str, float], chances: Chances
) -> dict[str, Decimal]:
    """Return how often each of these candidates, one or more, is chosen; they add up to 1, to the last place.

    Of two that have the same mean the earlier one in the policy counts as the greater.
    """
    count = len(names)
    if policy.policy == "thompson":
        wanted = chances.best(names)
    else:
        spread = policy.epsilon / count if policy.policy == "epsilon" else 0.0
        best = max(names, key=lambda name: means[name])
        wanted = [spread + (1 - spread * count) * (name == best) for name in names]
    least = policy.least_share
    units = [round((least + (1 - count * least) * share) * _UNITS) for share in wanted]
    units[units.index(max(units))] += _UNITS - sum(units)
    return {name: Decimal(own).scaleb(-PLACES) for name, own in zip(names, units, strict=True)}


def drawn(policy: Policy, key: str, shares: Mapping[str, Decimal]) -> str:
    """Return the candidate that a key gets: always the same while the shares are.

    The first 64 bits of the SHA-256 of agent, decision type and key, in UTF-8 with a NUL between them, are a
    place on a line that the shares divide in their order.
    """
    salted = f"{policy.agent_name}\0{policy.decision_type}\0{key}".encode()
    place = int.from_bytes(sha256(salted).digest()[: _BITS // 8], "big")
    end, chosen = Decimal(), ""
    for name, share in shares.items():
        end, chosen = end + share, name
        if place < int(end * 2**_BITS):
            break
    return chosen
