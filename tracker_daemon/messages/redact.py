"""Redaction of a message, in place: the strings of its payload, its headers, a subject of somebody else's."""

from __future__ import annotations

import json
import re
from functools import partial
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.messages.records import Contract, Message
    from tracker_daemon.redaction import Redactor

# The closing quote is optional: a payload that was cut off has its secrets, too.
_STRING = re.compile(rb'"((?:[^"\\]++|\\.)*+)"?', re.DOTALL)
_TOKEN = re.compile(rb'"((?:[^"\\]++|\\.)*+)("?[ \t\r\n]*+(:?))|[\[{]|[\]}]', re.DOTALL)
_ESCAPE = re.compile(rb'\\(?:(u[0-9a-fA-F]{4}(?:\\u[0-9a-fA-F]{4})*+)|(["\\/bfnrt]))')
_PLAIN = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
# With lone surrogates, as `surrogatepass` writes them.
_UNQUOTABLE = re.compile(rb'[\x00-\x1f"\\]|\xed[\xa0-\xbf][\x80-\xbf]')

_UUID = rb"[0-9a-fA-F]{8}(-?)[0-9a-fA-F]{4}(?:\1[0-9a-fA-F]{4}){2}\1[0-9a-fA-F]{12}"
_TIME = rb"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d+)?(?:[Zz]|[+-]\d\d:?\d\d)?"
_DECIMAL = rb"-?\d{1,12}(?:\.\d+)?"
_FORMS = {
    name: re.compile(form)
    for form, names in (
        (_UUID, b"id decision_id session_id"),
        (_TIME, b"timestamp created_at observed_at"),
        (_DECIMAL, b"confidence cost_usd propensity pnl outcome_pnl"),
    )
    for name in names.split()
}


def redact(message: Message, contract: Contract, redactor: Redactor, names: frozenset[bytes]) -> None:
    """Redact each string of the payload, keys too, as it is when decoded; numbers keep every digit.

    The contract's own `names` stay as keys, and so do the UUIDs, times and decimals that it asks for.
    """
    message.payload = _redact_strings(message.payload, redactor, names)
    if message.subject not in {contract.decisions_subject, contract.outcomes_subject}:
        message.subject = redactor.redact_text(message.subject)
    if message.headers:
        message.headers = {
            redactor.redact_text(key): redactor.redact_text(value) for key, value in message.headers.items()
        }


def redact_malformed(message: Message, redactor: Redactor) -> None:
    """Redact a payload that is no JSON object also as plain text, where nobody can tell what is a string."""
    try:
        parsed = json.loads(str(message.payload, "utf-8"), parse_int=str, parse_float=str)
    except (ValueError, RecursionError):
        parsed = None
    if not isinstance(parsed, dict):
        raw = _in_characters(message.payload, redactor.redact)
        plain = _unescaped(raw)
        kept = _in_characters(plain, redactor.redact)
        message.payload = raw if kept == plain else kept


def _in_characters(payload: bytes, redacted: Callable[[bytes], bytes]) -> bytes:
    """Redact what need not be UTF-8: a byte that is none is seen as the Latin-1 character that it may be."""
    text = str(payload, "utf-8", "surrogateescape")
    strays = {ord(stray) - 0xDC00: ord(stray) for stray in {*text} if "\udc80" <= stray <= "\udcff"}
    if not strays:
        return redacted(payload)
    shown = text.translate({stray: byte for byte, stray in strays.items()})
    kept = str(redacted(shown.encode()), "utf-8")
    return payload if kept == shown else kept.translate(strays).encode("utf-8", "surrogateescape")


def _redact_strings(payload: bytes, redactor: Redactor, names: frozenset[bytes]) -> bytes:
    # Nearly always there is nothing to be found: so all strings are decoded and searched in one go, as lines.
    try:
        if not redactor.finds(orjson.loads(b'"%b"' % rb"\n".join(_STRING.findall(payload))).encode()):
            return payload
    except orjson.JSONDecodeError:
        pass  # a malformed payload, or a lone surrogate: each string by itself will do
    depth, name = 0, b""

    def redacted(token: re.Match[bytes]) -> bytes:
        nonlocal depth, name
        content, rest, colon = token.groups()
        if content is None:
            depth, name = depth + (1 if token[0] in b"[{" else -1), b""
            return token[0]
        text = _unescaped(content)
        if colon:
            name = text if depth == 1 else b""
        if text in names if colon else name in _FORMS and _FORMS[name].fullmatch(text):
            return token[0]
        kept = redactor.redact(text)
        return token[0] if kept == text else b'"%b%b' % (_UNQUOTABLE.sub(_escaped, kept), rest)

    return _in_characters(payload, partial(_TOKEN.sub, redacted))


def _unescaped(content: bytes) -> bytes:
    """What JSON's escapes stand for; others, which a malformed payload may have, stand for themselves."""
    return _ESCAPE.sub(_meant, content) if b"\\" in content else content


def _meant(escape: re.Match[bytes]) -> bytes:
    if units := escape[1]:
        utf16 = bytes.fromhex(str(units, "ascii").replace("\\", "").replace("u", ""))
        return utf16.decode("utf-16-be", "surrogatepass").encode("utf-8", "surrogatepass")
    return _PLAIN.get(escape[2], escape[2])


def _escaped(character: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(character[0].decode("utf-8", "surrogatepass"))
