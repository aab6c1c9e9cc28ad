"""What a reader sees: no text controls his terminal, and that he has left is noticed."""

from __future__ import annotations

import re
from typing import Final

from rich.console import Console

# All but tab and line feed, C1 too; and what turns the direction of a text.
_CONTROLS: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u061c\u202a-\u202e\u2066-\u2069]")


def visible(text: str) -> str:
    """The text, with whatever would control a terminal spelt out as JSON has it."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


class Terminal(Console):
    """A console that says so, as any other output does, where its reader has left."""

    def on_broken_pipe(self) -> None:
        """Raise what `app` ends the program for."""
        raise BrokenPipeError


def console() -> Console:
    """Where tables go; colours only on a terminal."""
    return Terminal(highlight=False, markup=False)
