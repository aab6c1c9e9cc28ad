"""Words that somebody else wrote, spelt so that they stay data: in a sentence, and in a prompt."""

from __future__ import annotations

import json
import re
from typing import Final

# Python takes these for printable, and nobody sees them: variation selectors and fillers, which can carry a
# hidden message. What opens or closes markup, fences and the marks of roles (<|im_start|>, [INST]) likewise.
_SPELT_OUT: Final = re.compile(
    r"[<>\[\]`\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]"
)
_PLAIN: Final = re.compile(r"\w[\w.:/+-]*(\[\d+\][\w.:/+-]*)*")
# A full stop ends a sentence behind a word of some length, before what may begin one: not in `vs. SPY`.
_SENTENCE: Final = re.compile(
    r"""(?:(?<=[\w%)"']{3})\.|[!?\u2026])["'\u2019\u201d)\]}]*(?=\s+[^\sa-z]|\s*$)|[\u3002\uff01\uff1f]|\n"""
)
_SHORT: Final = 40


def quoted(text: str) -> str:
    r"""The text as a JSON string on one line, which nothing inside can end.

    Whatever is not printable (controls, breaks of lines, what is invisible or turns the direction), and the
    characters < > [ ] and backtick are spelt as \u and four digits.
    """
    spelt = json.dumps(text, ensure_ascii=False)
    return "".join(
        each if each.isprintable() and not _SPELT_OUT.match(each) else _escaped(each) for each in spelt
    )


def word(text: str) -> str:
    """The text itself where it is a plain word (`BUY`, `gpt-x`, `macd.line`, `vetoes[0]`), else `quoted`."""
    # A letter may be an invisible one.
    hidden = _SPELT_OUT.search(text.replace("[", "").replace("]", ""))
    return text if _PLAIN.fullmatch(text) and not hidden else quoted(text)


def short(text: str) -> str:
    """As `word`; of a long text the beginning."""
    return word(text) if len(text) <= _SHORT else f"{word(text[:_SHORT])}\u2026"


def excerpt(text: str, most: int) -> str:
    """The beginning of a text, whole sentences of at most so many characters in all; or nothing."""
    if len(text) <= most:
        return text.strip()
    ends = [found.end() for found in _SENTENCE.finditer(text) if found.end() <= most]
    return text[: ends[-1]].strip() if ends else ""


def _escaped(character: str) -> str:
    return f"\\u{ord(character):04x}" if character < "\x7f" else json.dumps(character)[1:-1]
