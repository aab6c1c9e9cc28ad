"""Secrets and personal data, found by patterns and cut out of texts.

The engine is RE2, which looks through a text in a time that is linear in its length, whatever the pattern. It
has to do so again behind each match, but for one pattern at most `MAX_MATCHES` times.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Literal

import re2  # type: ignore[import-untyped] # it comes without types

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

Preset = Literal["keys", "tokens", "email", "cards"]

MAX_ROUNDS: Final = 8
"""So often what is left of a text is looked at again: if then it still matches, it is cut as a whole."""
MAX_MATCHES: Final = 1000
"""Beyond so many of a pattern, each of which may take a look at it all, the rest of a text is cut."""
MAX_PATTERN_BYTES: Final = 16 * 1024 * 1024
"""Memory of a compiled pattern, and of all together once more."""

# What follows may stand after an escape, in a text that quotes JSON: \n, \u003c.
_ESCAPE = r"(?:\\[bfnrt]|\\u[0-9a-fA-F]{4})"
_START = rf"(?:\b|_|{_ESCAPE})"
_PEM = r"(?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
_CARD = _START + r"(?P<cards>%s)\b"
_PRESETS: Final[dict[Preset, tuple[str, ...]]] = {
    "keys": (
        r"(?P<keys>sk-(?:ant|proj)-[\w-]{16,}|(?:AKIA|ASIA)[A-Z0-9]{16,}|AIza[\w-]{30,})",
        r"(?P<keys>(?:gh[opsur]|github_pat)_\w{20,}|glpat-[\w-]{20,}|(?:xox[a-z]|xapp)-[\w-]{10,})",
        # Short beginnings that words may have inside: risk-, task-.
        _START
        + r"(?P<keys>sk-[\w-]{16,}|[rs]k_(?:live|test)_\w{16,}|(?:gsk|hf|r8)_\w{20,}|(?:xai|pplx)-\w{20,})",
        rf"(?P<keys>-----BEGIN {_PEM}[\s\S]*?-----END {_PEM})",
        rf"(?P<keys>-----BEGIN {_PEM}(?:(?:\s|\\[nr])*[\w+/=]{{16,}})+)",  # one that was cut off
    ),
    "tokens": (
        r"(?P<tokens>eyJ[\w-]{8,}(?:\.{1,2}[\w-]+){1,4})",
        # A digit, or a length that no word has: bearer shares, bearer certificates.
        rf"(?i){_START}bearer\s+(?P<tokens>[A-Z._~+/=-]*[0-9][\w.~+/=-]{{6,}}|[\w.~+/=-]{{16,}})",
        rf"(?i){_START}basic\s+(?P<tokens>[A-Z0-9+/]{{8,}}={{1,2}})",
        r"""(?i)authorization["']?\s*[:=]\s*["']?(?:basic|bearer|token)\s+(?P<tokens>[^\s"'\\,;]+)""",
        r"""\w:(?:\\?/){2}[^\s/:@"'\\]*:(?P<tokens>[^\s/"'\\]+)@""",
    ),
    "email": (_ESCAPE + r"?(?P<email>[\pL\pN._%+'-]+(?:@|%40)[\pL\pN-]+(?:\.[\pL\pN-]+)*\.\pL{2,})",),
    # The lengths and first digits of the networks; one pattern for each form, since one may hide another.
    "cards": (
        _CARD % r"4\d{12}|4\d{15}|4\d{18}|(?:5\d|2[2-7]|35)\d{14}|3[47]\d{13}|3[0689]\d{12}|6\d{15,18}",
        _CARD % r"(?:[4-6]\d|2[2-7]|35)\d\d(?:[ -]\d{4}){3}",
        _CARD % r"[46]\d{3}(?:[ -]\d{4}){3}[ -]\d{3}",
        _CARD % r"3[47]\d\d[ -]\d{6}[ -]\d{5}|3[0689]\d\d[ -]\d{6}[ -]\d{4}",
    ),
}
# Of what JSON strings are joined by; and of bytes that are no text, which would break characters apart.
_UNFIT = re.compile(r"(?<!\\)(?:\\\\)*(?:\\[AzC]|\(\?\w*-\w*m)")
_UNNAMED = "pattern"
# Not those of quotes, backslashes, controls and surrogates: what is JSON within a text stays JSON.
_LETTER = re.compile(rb"\\(?<!\\\\)\\*+u(?!00[01]|0022|005[cC]|[dD][89a-fA-F])([0-9a-fA-F]{4})")


class Redactor:
    """Cuts what its patterns match out of texts: each match becomes `[redacted:NAME]`.

    NAME is the preset, or a named group of a pattern of one's own, of which only such groups are cut; without
    a named group all of the match is, as `pattern`. In every pattern `^` and `$` are the ends of a line.
    """

    def __init__(self, presets: Iterable[Preset] = (), patterns: Iterable[str] = ()) -> None:
        """Compile everything; ValueError, in words that follow a setting's name, for what does not fit."""
        checks = {"cards": _is_card}
        self._rules = [_Rule(text, checks.get(preset)) for preset in presets for text in _PRESETS[preset]]
        self._rules += [_Rule(pattern) for pattern in patterns]
        # In one, because to ask each pattern takes its time once more for each.
        self._any = _compiled("|".join(f"(?:{rule.text})" for rule in self._rules), capture=False)
        names = {_UNNAMED}.union(*(rule.names for rule in self._rules))
        self._marker = re.compile(rf"(\[redacted:(?:{'|'.join(sorted(names))})\])".encode())

    def finds(self, text: bytes) -> bool:
        """Whether anything in UTF-8 text, bytes that are none included, looks like a match, hidden or not."""
        readings = {text, _spelt_out(text)}
        if b"\0" in text:
            readings.add(_bare(text))
        return any(map(self._matches, readings))

    def redact(self, text: bytes) -> bytes:
        """The text without its matches; what was cut before stays as it is, so twice is as good as once.

        Escapes of JSON within the text, and NULs, hide nothing; where they try to, all of them are resolved.
        """
        while self.finds(text) and (kept := self._redacted(text)) != text:
            text = kept
        return text

    def redact_text(self, text: str) -> str:
        """The same for a `str`, lone surrogates included."""
        return self.redact(text.encode("utf-8", "surrogatepass")).decode("utf-8", "surrogatepass")

    def _matches(self, text: bytes) -> bool:
        return self._any.search(text) is not None

    def _redacted(self, text: bytes) -> bytes:
        kept = self._without_matches(text)
        if (spelt_out := _spelt_out(text)) != text:
            # Not what is kept, spelt out: a match that an escape splits would leave the part before it.
            cut = self._without_matches(spelt_out)
            kept = kept if _spelt_out(kept) == cut else cut
        if b"\0" in kept:
            cut = self._without_matches(_bare(kept))
            kept = kept if _bare(kept) == cut else cut
        return kept

    def _without_matches(self, text: bytes) -> bytes:
        if not self._matches(text):
            return text
        parts = self._marker.split(text)
        parts[::2] = map(self._cut, parts[::2])
        return b"".join(parts)

    def _cut(self, text: bytes, rounds: int = MAX_ROUNDS) -> bytes:
        """Cut the matches out of the text, then out of what is left between them, which is text by itself."""
        spans = self._spans(text) if self._matches(text) else []
        if spans and not rounds:
            spans = [(0, len(text), spans[0][2])]
        kept, at = [], 0
        for start, end, name in spans:
            kept += [self._cut(text[at:start], rounds - 1), f"[redacted:{name}]".encode()]
            at = end
        return b"".join([*kept, self._cut(text[at:], rounds - 1)]) if kept else text

    def _spans(self, text: bytes) -> list[tuple[int, int, str]]:
        """Start, end and name of what has to go, in order; what overlaps goes under the first one's name."""
        merged: list[tuple[int, int, str]] = []
        for start, end, name in sorted(span for rule in self._rules for span in rule.spans(text)):
            if start == end:
                continue
            if merged and start < merged[-1][1]:
                merged[-1] = (merged[-1][0], max(end, merged[-1][1]), merged[-1][2])
            else:
                merged.append((start, end, name))
        return merged


class _Rule:
    """One pattern, and what it means: what is found at a place may have to pass a check."""

    def __init__(self, pattern: str, check: Callable[[bytes, int, int], bool] | None = None) -> None:
        if _UNFIT.search(pattern):
            raise ValueError(r"must do without \A, \z, \C and (?-m): ^ and $ are the ends of a line")
        self.text = pattern
        self._regexp = _compiled(pattern)
        if self._regexp.search(b""):
            raise ValueError(f"must not match the empty text, as {pattern!r:.60} does")
        self.names: dict[str, int] = self._regexp.groupindex
        self._check = check

    def spans(self, text: bytes) -> list[tuple[int, int, str]]:
        """Start, end and name of what is to be cut; empty where a named group has matched nothing."""
        found: list[tuple[int, int, str]] = []
        at = 0
        while at < len(text) and (match := self._regexp.search(text, at)):
            groups = [(*match.span(group), name) for name, group in self.names.items()]
            cuts = [cut for cut in groups if cut[0] >= 0] or [(*match.span(), _UNNAMED)]
            if self._check is not None and not self._check(text, *cuts[0][:2]):
                at = match.start() + 1  # what has to be cut may begin inside
                continue
            if len(found) >= MAX_MATCHES:
                return [*found, (match.start(), len(text), cuts[0][2])]
            found += cuts
            at = max(match.end(), at + 1)
        return found


def _spelt_out(text: bytes) -> bytes:
    """The text with the letters that escapes of JSON stand for, of JSON in JSON in JSON, too."""
    # One byte is looked for fifteen times as fast as two.
    return _LETTER.sub(_letter, text) if b"\\" in text and b"\\u" in text else text


def _bare(text: bytes) -> bytes:
    """The text spelt out, without the NULs that UTF-16 and UTF-32 have between letters."""
    return _spelt_out(text.replace(b"\0", b""))


def _letter(escape: re.Match[bytes]) -> bytes:
    return chr(int(escape[1], 16)).encode()


def _compiled(pattern: str, *, capture: bool = True) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = MAX_PATTERN_BYTES
    options.never_capture = not capture
    try:
        return re2.compile(f"(?m){pattern}", options)
    except re2.error as error:
        reason = error.args[0].decode(errors="replace").replace("(?m)", "", 1)
        raise ValueError(f"must be what RE2 can compile: {reason}") from None


_BEFORE = re.compile(rb"\d\.$")
_AFTER = re.compile(rb"\.\d")


def _is_card(text: bytes, start: int, end: int) -> bool:
    """Whether digits pass the check of ISO/IEC 7812 (Luhn's), and are not a part of a decimal number."""
    if _BEFORE.search(text, max(0, start - 2), start) or _AFTER.match(text, end):
        return False
    digits = [int(digit) for digit in re.findall(rb"\d", text[start:end])][::-1]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[1::2]]
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0
