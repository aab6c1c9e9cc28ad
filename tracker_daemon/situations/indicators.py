"""The indicators of a context: whatever it says, flat, each by its path."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MAX_INDICATORS: Final = 200
"""Of one context."""
MAX_DEPTH: Final = 20
"""Steps of a path."""

_SIGNS: Final = re.compile(r"[\\.\[]")


class Indicator(Struct, frozen=True):
    r"""A number, or a category: a text, a truth. `steps` lead to it: keys of objects, places in arrays.

    `path` is the steps as a reader has them: `macd.line`, `vetoes[0]`; in a key, `.`, `[` and `\` get a `\`.
    """

    path: str
    steps: tuple[str | int, ...]
    value: float | str | bool

    @property
    def jsonpath(self) -> str:
        """The steps as PostgreSQL has them; strict: objects and arrays are not taken for each other."""
        steps = (f".{json.dumps(step)}" if isinstance(step, str) else f"[{step}]" for step in self.steps)
        return f"strict ${''.join(steps)}"

    @property
    def is_number(self) -> bool:
        """Whether differences count, not only whether it is the same."""
        return not isinstance(self.value, str | bool)

    @property
    def is_beyond(self) -> bool:
        """Whether it is a number that no message can hold: none of a float64."""
        return not (isinstance(self.value, str) or abs(self.value) <= sys.float_info.max)


def _spelt(key: str) -> str:
    return _SIGNS.sub(r"\\\g<0>", key) if _SIGNS.search(key) else key  # a template takes ten times as long


def indicators(context: Mapping[str, Any]) -> Iterator[Indicator]:
    """Yield the indicators in the order of the context; null is none.

    The element of an array is what stands at its place. A number that comes as a text stays a text.
    """
    rest: list[tuple[str, tuple[str | int, ...], Any]] = [("", (), context)]
    while rest:
        path, steps, value = rest.pop()
        match value:
            case dict():
                dot = "." if steps else ""
                rest += [
                    (f"{path}{dot}{_spelt(key)}", (*steps, key), inner)
                    for key, inner in reversed(value.items())
                ]
            case list():
                rest += [
                    (f"{path}[{place}]", (*steps, place), value[place])
                    for place in reversed(range(len(value)))
                ]
            case bool() | str() | int() | float():
                yield Indicator(path, steps, value)
