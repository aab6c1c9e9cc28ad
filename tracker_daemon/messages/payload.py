"""From bytes to typed fields: UTF-8, JSON, depth, unknown keys, and where exactly a payload is broken."""

from __future__ import annotations

import json
import re
from decimal import MAX_PREC, Context, Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeVar

import msgspec
import orjson
from msgspec import Raw, Struct

from tracker_daemon.errors import InvalidPayload

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MAX_DEPTH: Final = 200
"""Levels of nesting that a payload may have, below what jsonb and the parsers here can take."""

_object_decoder = msgspec.json.Decoder(dict[str, Raw])

Fields = TypeVar("Fields", bound=Struct)


def read_fields(
    payload: bytes, decoder: msgspec.json.Decoder[Fields], known: frozenset[str]
) -> tuple[Fields, str | None]:
    """Parse a payload into its typed fields and the JSON text of all unknown ones (None: there are none)."""
    if not payload.isascii():
        _check_unicode(payload)
    try:
        fields, extra = decoder.decode(payload), None
    except (msgspec.DecodeError, RecursionError):
        fields, extra = _read_thoroughly(payload, decoder, known)
    if b"\\" in payload and b"\\u0000" in payload:
        _check_nul(payload)
    return fields, extra


def _read_thoroughly(
    payload: bytes, decoder: msgspec.json.Decoder[Fields], known: frozenset[str]
) -> tuple[Fields, str | None]:
    """Read what has unknown fields, nulls, or a duplicate key; say what is wrong with anything else."""
    check_depth(payload)
    try:
        # Of a duplicate key the last counts, also when an earlier one has the wrong type.
        raw = _object_decoder.decode(payload)
        given = {key: text for key, text in raw.items() if key in known and bytes(text) != b"null"}
        fields = decoder.decode(msgspec.json.encode(given))
    except msgspec.ValidationError as error:
        _refuse_type(error)
    except msgspec.DecodeError as error:
        _refuse_malformed(payload, error)
    unknown = {key: raw[key] for key in raw.keys() - known}
    for key, text in unknown.items():
        parse_json(str(text, "utf-8"), key)
    return fields, str(msgspec.json.encode(unknown, order="sorted"), "utf-8") if unknown else None


def parse_json(text: str, field: str | None) -> Any:
    """Parse JSON text that is stored as it came; refuse numbers that no float64, or no jsonb, can hold.

    Returns a value that is the same for the same content: order and spacing gone, digits not. Of numbers with
    at most 17 digits, which is what programs print for a float64, the float64 counts.
    """
    try:
        parsed = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise InvalidPayload("invalid_field", field, error.msg) from None
    # Where neither is found there is no such number; to look for numbers at once takes ten times as long.
    digits = text.encode().translate(_DIGITS_AS_ZEROS, b".+-")
    if b"e0000" in digits or _EIGHTEEN_DIGITS in digits:
        if _MANY_PLACES.search(text):
            _check_places(text, field)
        if _MANY_DIGITS.search(text):
            return json.loads(text, parse_int=_exact_int, parse_float=_exact_float)
    return parsed


def canonical_json(parsed: Any) -> bytes:
    """What `parse_json` returned, as the same bytes for the same value."""
    return orjson.dumps(parsed, option=orjson.OPT_SORT_KEYS)


_DIGITS_AS_ZEROS = bytes.maketrans(b"123456789E", b"000000000e")
_EIGHTEEN_DIGITS = b"0" * 18
_MANY_DIGITS = re.compile(r"(?:\d\.?){18}")
_UNROUNDED = Context(prec=MAX_PREC)


def _exact_int(digits: str) -> float | tuple[str, str]:
    return int(digits) if len(digits) < 19 else _exact_float(digits)


def _exact_float(digits: str) -> float | tuple[str, str]:
    number, rounded = exact(digits), float(digits)
    if Decimal(repr(rounded)) == number:
        return rounded
    return "number", str(number.normalize(_UNROUNDED))


def exact(digits: str) -> Decimal:
    """The decimal of a JSON number; ValueError for an exponent that no decimal has."""
    try:
        return Decimal(digits)
    except InvalidOperation:
        raise ValueError("Number out of range") from None


MAX_PLACES: Final = 16383
"""Digits after the point that PostgreSQL's numeric, and so jsonb, can hold."""

MAX_EXPONENT: Final = 2**30 - 2
"""The greatest exponent that PostgreSQL 15 reads; of a zero, any other such number is no float64."""

# What may have more: an exponent of four digits, or together with one of three so many digits.
_MANY_PLACES = re.compile(r"[eE][-+]?\d{4}|\d{15000}")
_NUMBER = re.compile(r'"(?:[^"\\]|\\.)*+"|-?\d+(?:\.\d+)?(?:[eE][-+]?\d+)?', re.DOTALL)


def _check_places(text: str, field: str | None) -> None:
    for token in _NUMBER.finditer(text):
        if token[0][0] == '"':
            continue
        try:
            exponent = int(exact(token[0]).as_tuple().exponent)
        except ValueError:
            exponent = MAX_EXPONENT + 1
        if not -MAX_PLACES <= exponent <= MAX_EXPONENT:
            detail = f"a number has more than {MAX_PLACES} places, or an exponent above {MAX_EXPONENT}"
            raise InvalidPayload("invalid_field", field, detail)


def _check_unicode(payload: bytes) -> None:
    try:
        str(payload, "utf-8")
    except UnicodeDecodeError as error:
        detail = f"not UTF-8: {error.reason} at byte {error.start}"
        raise InvalidPayload("invalid_json", None, detail) from None


# The closing quote is optional: without it, each quote of an unfinished string would be tried as a start.
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*+"?|[\[{]|[\]}]', re.DOTALL)


def stored_object(text: str | None) -> dict[str, Any] | None:
    """The object in a JSONB column; None for what no message can have put there, but an adopted table has."""
    data = (text or "null").encode()
    try:
        check_depth(data)
        found = msgspec.json.decode(data)
    except (InvalidPayload, msgspec.DecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def check_depth(payload: bytes) -> None:
    """Refuse a payload that is nested deeper than `MAX_DEPTH` levels."""
    if payload.count(b"[") + payload.count(b"{") <= MAX_DEPTH:
        return
    depth = 0
    for token in _TOKEN.finditer(payload):
        depth += (token[0] in b"[{") - (token[0] in b"]}")
        if depth > MAX_DEPTH:
            detail = f"nested deeper than {MAX_DEPTH} levels at byte {token.start()}"
            raise InvalidPayload("invalid_json", None, detail)


def _check_nul(payload: bytes) -> None:
    # Pairs: jsonb refuses the character also in a value that a later one of the same key replaces. Among
    # the payload's own fields the last alone is kept. Numbers do not matter here, and may be huge.
    pairs = json.loads(payload, object_pairs_hook=_Pairs, parse_int=str, parse_float=str)
    steps = _find(dict(pairs), lambda text: "\x00" in text)
    if steps is not None:
        raise InvalidPayload("nul_character", _path(steps), "PostgreSQL text cannot hold U+0000")


def _refuse_type(error: msgspec.ValidationError) -> NoReturn:
    detail, _, path = str(error).replace("`", "").partition(" - at $")
    if missing := re.fullmatch(r"Object missing required field (\w+)", detail):
        raise InvalidPayload("missing_field", missing[1], "required") from None
    if not path:
        raise InvalidPayload("not_an_object", None, detail) from None
    raise InvalidPayload("invalid_field", path.removeprefix("."), detail) from None


_SURROGATE = re.compile("[\ud800-\udfff]")


def _refuse_malformed(payload: bytes, error: msgspec.DecodeError) -> NoReturn:
    """Name the field of a lone surrogate, which JSON's grammar allows although it is no Unicode text."""
    try:
        parsed = json.loads(payload)
    except ValueError:
        raise InvalidPayload("invalid_json", None, str(error)) from None
    if not isinstance(parsed, dict):
        raise InvalidPayload("not_an_object", None, "Expected object") from None
    steps = _find(parsed, lambda text: _SURROGATE.search(text) is not None)
    if steps is None:
        raise InvalidPayload("invalid_json", None, str(error)) from None
    detail = "a lone surrogate is not Unicode text"
    raise InvalidPayload("invalid_field", _path(steps), detail) from None


class _Pairs(list[tuple[str, Any]]):
    """A JSON object with all its keys, duplicates too."""


def _find(value: Any, matches: Callable[[str], bool]) -> list[str | int] | None:
    """The steps to the first string, key or value, that matches."""
    if isinstance(value, str):
        return [] if matches(value) else None
    items: Iterable[tuple[str | int, Any]]
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, _Pairs):
        items = value
    elif isinstance(value, list):
        items = enumerate(value)
    else:
        return None
    for step, item in items:
        # Steps are made a path only where something is found: the paths of all would outgrow the payload.
        below = [] if isinstance(step, str) and matches(step) else _find(item, matches)
        if below is not None:
            return [step, *below]
    return None


def _path(steps: list[str | int]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in steps).removeprefix(".")
