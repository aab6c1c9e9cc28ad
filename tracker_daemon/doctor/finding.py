"""What was looked at, how it is, what was seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

Level = Literal["ok", "warning", "broken"]


class Finding(Struct, frozen=True):
    """One thing looked at: how it is, what was seen, and for what is not well the remedy."""

    part: str
    level: Level
    seen: str


def findings(
    part: str, fine: str, *, broken: Iterable[str] = (), warnings: Iterable[str] = ()
) -> list[Finding]:
    """A finding for each trouble of a part; `fine` where there is none."""
    troubles = [
        *(Finding(part, "broken", seen) for seen in broken),
        *(Finding(part, "warning", seen) for seen in warnings),
    ]
    return troubles or [Finding(part, "ok", fine)]


def oldest(part: str, seen: str, version: tuple[int, ...], needed: tuple[int, ...]) -> Finding:
    """Whether a server is new enough to be one that this package was made for."""
    if version >= needed:
        return Finding(part, "ok", seen)
    least = ".".join(map(str, needed))
    return Finding(part, "warning", f"{seen} is older than {least}, the oldest that will do: upgrade it")
