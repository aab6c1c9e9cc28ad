"""The values of single fields: exact decimals, whole numbers, times, outcomes, embeddings, aliases."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import Any

from msgspec import Struct
from pgvector import Vector

from tracker_daemon.errors import InvalidPayload

_OUTCOMES = frozenset({"SUCCESS", "FAILURE", "PENDING"})
_EDGES = frozenset({date.min, date.max})
_DECIMAL = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?")
_EXACT = Context(prec=60, rounding=ROUND_HALF_EVEN)


def same(fields: Struct, name: str, alias: str) -> Any:
    """The value given under either of a field's two names; refuse two that differ."""
    value, other = getattr(fields, name), getattr(fields, alias)
    if value is None:
        return other
    if other is not None and other != value:
        raise InvalidPayload("invalid_field", alias, f"differs from {name}, which is the same field")
    return value


def utc(given: datetime | None, field: str) -> datetime | None:
    """The time in UTC, which is also what a time without an offset means."""
    if given is None:
        return None
    if given.date() in _EDGES:
        raise InvalidPayload("invalid_field", field, "expected a time from 0001-01-02 to 9999-12-30")
    return given.replace(tzinfo=UTC) if given.tzinfo is None else given.astimezone(UTC)


def whole(value: Any, field: str) -> int | None:
    """An integer of 0..2^31-1; 12.0 is one, in JSON Schema and so here."""
    if value is None:
        return None
    _check_number(value, field, "an integer")
    if not 0 <= value <= 2**31 - 1 or value != int(value):
        raise InvalidPayload("invalid_field", field, "expected an integer from 0 to 2147483647")
    return int(value)


def outcome_word(word: str | None) -> str | None:
    """SUCCESS, FAILURE or PENDING, given in any case."""
    if word is None:
        return None
    # isascii: the upper case of a long s (U+017F) is S.
    if not word.isascii() or word.upper() not in _OUTCOMES:
        raise InvalidPayload("invalid_field", "outcome", "expected SUCCESS, FAILURE or PENDING")
    return word.upper()


def embedding(numbers: list[float] | None, dimensions: int) -> Vector | None:
    """The vector of a prompt, which must have the installation's dimension."""
    if numbers is None:
        return None
    if len(numbers) != dimensions:
        detail = f"{len(numbers)} numbers, configured are {dimensions}"
        raise InvalidPayload("wrong_dimension", "prompt_embedding", detail)
    return Vector(numbers)


class Numeric(Struct, frozen=True):
    """A column NUMERIC with `places` places: the bounds of a value as given, and as it is kept."""

    places: int
    given: tuple[Decimal, Decimal]
    kept: tuple[Decimal, Decimal]
    rule: str

    def read(self, value: Any, field: str) -> Decimal | None:
        """The exact decimal of a JSON number or string, rounded half-even to the column's places."""
        if value is None:
            return None
        if isinstance(value, str):
            if not _DECIMAL.fullmatch(value) or (value[0] == "-" and self.given[0] == 0):
                raise InvalidPayload("invalid_field", field, f"expected a decimal {self.rule}, like 0.25")
        else:
            _check_number(value, field, f"a decimal {self.rule}")
        number = Decimal(value)
        if self.given[0] <= number <= self.given[1]:
            number = number.quantize(Decimal(1).scaleb(-self.places), context=_EXACT)
            if self.kept[0] <= number <= self.kept[1]:
                return number.copy_abs() if number.is_zero() else number
        raise InvalidPayload("invalid_field", field, f"expected a decimal {self.rule}")


def _check_number(value: Any, field: str, expected: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | Decimal):
        kind = {str: "a string", bool: "a boolean", list: "an array"}.get(type(value), "an object")
        raise InvalidPayload("invalid_field", field, f"expected {expected}, got {kind}")


def _numeric(places: int, given: tuple[str, str], kept: tuple[str, str], rule: str) -> Numeric:
    (a, b), (c, d) = given, kept
    return Numeric(places, (Decimal(a), Decimal(b)), (Decimal(c), Decimal(d)), rule)


_PNL_MAX = "999999999999.99999999"
CONFIDENCE = _numeric(4, ("0", "1"), ("0", "1"), "from 0 to 1")
PROPENSITY = _numeric(10, ("0", "1"), ("1e-10", "1"), "above 0, at most 1")
COST = _numeric(6, ("0", "1e8"), ("0", "99999999.999999"), "from 0 to 99999999.999999")
PNL = _numeric(8, ("-1e12", "1e12"), ("-" + _PNL_MAX, _PNL_MAX), "with at most 12 digits before the point")
