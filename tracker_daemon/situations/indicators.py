"""The indicators of a context: whatever it says, flat, each by its path."""

from __future__ import annotations

import json
import re
import sys
from typing import TYPE_CHECKING, Any, Final

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

MAX_INDICATORS: Final = 200
"""Of one context."""
MAX_DEPTH: Final = 20
"""Steps of a path."""

_SIGNS: Final = re.compile(r"[\\.\[]")


class Indicator(Struct, frozen=True):
    """A number, or a category: a text, a truth. `steps` lead to it: keys of objects, places in arrays."""

    steps: tuple[str | int, ...]
    value: float | str | bool

    @property
    def path(self) -> str:
        r"""The steps as a reader has them: `macd.line`, `vetoes[0]`; in a key, `.`, `[` and `\` get a `\`."""
        return self._joined(_spelt).removeprefix(".")

    @property
    def jsonpath(self) -> str:
        """The steps as PostgreSQL has them; strict: objects and arrays are not taken for each other."""
        return f"strict ${self._joined(json.dumps)}"

    @property
    def is_number(self) -> bool:
        """Whether differences count, not only whether it is the same."""
        return not isinstance(self.value, str | bool)

    @property
    def is_beyond(self) -> bool:
        """Whether it is a number that no message can hold: none of a float64."""
        return not (isinstance(self.value, str) or abs(self.value) <= sys.float_info.max)

    def _joined(self, spelled: Callable[[str], str]) -> str:
        return "".join(f".{spelled(step)}" if isinstance(step, str) else f"[{step}]" for step in self.steps)


def _spelt(key: str) -> str:
    return _SIGNS.sub(r"\\\g<0>", key) if _SIGNS.search(key) else key  # a template takes ten times as long


def indicators(context: Mapping[str, Any]) -> Iterator[Indicator]:
    """Yield the indicators in the order of the context; null is none.

    The element of an array is what stands at its place. A number that comes as a text stays a text.
    """
    rest: list[tuple[tuple[str | int, ...], Any]] = [((), context)]
    while rest:
        steps, value = rest.pop()
        match value:
            case dict():
                rest += [((*steps, key), inner) for key, inner in reversed(value.items())]
            case list():
                rest += [((*steps, place), value[place]) for place in reversed(range(len(value)))]
            case bool() | str() | int() | float():
                yield Indicator(steps, value)
