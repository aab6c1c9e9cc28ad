"""The values of single fields: exact decimals, whole numbers, times, outcomes, embeddings, aliases."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from struct import pack
from typing import Any

from msgspec import Struct
from pgvector import Vector

from tracker_daemon.errors import InvalidPayload

_OUTCOMES = frozenset({"SUCCESS", "FAILURE", "PENDING"})
_EDGES = frozenset({date.min, date.max})
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_INT32_MAX = 2**31 - 1
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


def fold(fields: Struct, name: str, alias: str) -> None:
    """Move the value given under a field's alias to its name; refuse two that differ."""
    other = getattr(fields, alias)
    if other is None:
        return
    if getattr(fields, name) not in (None, other):
        raise InvalidPayload("invalid_field", alias, f"differs from {name}, which is the same field")
    setattr(fields, name, other)
    setattr(fields, alias, None)


def utc(given: datetime, field: str) -> datetime:
    """The time in UTC, which is also what a time without an offset means."""
    if given.tzinfo is UTC and 1 < given.year < 9999:
        return given
    if given.date() in _EDGES:
        raise InvalidPayload("invalid_field", field, "expected a time from 0001-01-02 to 9999-12-30")
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def whole(value: Any, field: str) -> int | None:
    """An integer of 0..2^31-1; 12.0 is one, in JSON Schema and so here."""
    if value is None:
        return None
    if type(value) is int and 0 <= value <= _INT32_MAX:
        return value
    _check_number(value, field, "an integer")
    if not 0 <= value <= _INT32_MAX or value != int(value):
        raise InvalidPayload("invalid_field", field, "expected an integer from 0 to 2147483647")
    return int(value)


def outcome_word(word: str) -> str:
    """SUCCESS, FAILURE or PENDING, given in any case."""
    # isascii: the upper case of a long s (U+017F) is S.
    if not word.isascii() or word.upper() not in _OUTCOMES:
        raise InvalidPayload("invalid_field", "outcome", "expected SUCCESS, FAILURE or PENDING")
    return word.upper()


def embedding(numbers: list[float], dimensions: int) -> Vector:
    """The vector of a prompt, which must have the installation's dimension, in float32."""
    if len(numbers) != dimensions:
        detail = f"{len(numbers)} numbers, configured are {dimensions}"
        raise InvalidPayload("wrong_dimension", "prompt_embedding", detail)
    try:
        # Twice as fast as the array that Vector makes of a list; it rounds what is just above the bound.
        packed = pack(f">HH{dimensions}f", dimensions, 0, *numbers)
    except OverflowError:
        packed = _GREATEST
    if _GREATEST in packed:
        for index, number in enumerate(numbers):
            if abs(number) > _FLOAT32_MAX:
                detail = f"expected a number from -{_FLOAT32_MAX} to {_FLOAT32_MAX}"
                raise InvalidPayload("invalid_field", f"prompt_embedding[{index}]", detail)
    return Vector.from_binary(packed)


_FLOAT32_MAX = 3.4028234663852886e38
_GREATEST = pack(">f", _FLOAT32_MAX)[1:]  # without the byte that holds the sign


class Numeric(Struct, frozen=True):
    """A column NUMERIC: its last place, the bounds of a value as given, and those of it as it is kept."""

    quantum: Decimal
    given: tuple[Decimal, Decimal]
    kept: tuple[Decimal, Decimal]
    rule: str

    def read(self, value: Any, field: str) -> Decimal | None:
        """The exact decimal of a JSON number or string, rounded half-even to the column's places."""
        if value is None:
            return None
        number = value if type(value) is Decimal else self._decimal(value, field)
        if self.given[0] <= number <= self.given[1]:
            number = number.quantize(self.quantum, context=_EXACT)
            if self.kept[0] <= number <= self.kept[1]:
                return number or abs(number)  # no negative zero
        raise InvalidPayload("invalid_field", field, f"expected a decimal {self.rule}")

    def _decimal(self, value: Any, field: str) -> Decimal:
        if isinstance(value, str):
            if not _DECIMAL.fullmatch(value) or (value[0] == "-" and self.given[0] == 0):
                raise InvalidPayload("invalid_field", field, f"expected a decimal {self.rule}, like 0.25")
        else:
            _check_number(value, field, f"a decimal {self.rule}")
        return Decimal(value)


def _check_number(value: Any, field: str, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        kind = {str: "a string", bool: "a boolean", list: "an array"}.get(type(value), "an object")
        raise InvalidPayload("invalid_field", field, f"expected {expected}, got {kind}")


def _numeric(places: int, given: tuple[str, str], kept: tuple[str, str], rule: str) -> Numeric:
    (a, b), (c, d) = given, kept
    return Numeric(Decimal(1).scaleb(-places), (Decimal(a), Decimal(b)), (Decimal(c), Decimal(d)), rule)


_PNL_MAX = "999999999999.99999999"
CONFIDENCE = _numeric(4, ("0", "1"), ("0", "1"), "from 0 to 1")
PROPENSITY = _numeric(10, ("0", "1"), ("1e-10", "1"), "above 0, at most 1")
COST = _numeric(6, ("0", "1e8"), ("0", "99999999.999999"), "from 0 to 99999999.999999")
PNL = _numeric(8, ("-1e12", "1e12"), ("-" + _PNL_MAX, _PNL_MAX), "with at most 12 digits before the point")
