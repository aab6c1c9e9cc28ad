"""What is tracked, as the JSON of the contract."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Sized
from datetime import UTC, datetime
from decimal import Decimal
from secrets import token_bytes
from typing import TYPE_CHECKING, Any

import orjson

from tracker_daemon.errors import InvalidPayload, InvalidQuestion
from tracker_daemon.messages import Contract, Message, decode, uuid7

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID


def new_id() -> UUID:
    """A UUIDv7 of now."""
    return uuid7(time.time_ns(), token_bytes(8))


def finite(value: Any) -> Any:
    """The value, or its text where it is infinite or not a number, for the other side to refuse.

    JSON has no such numbers: as null, a lost P&L would look like none, a lost condition hold for all.
    """
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def written(subject: str, fields: Mapping[str, Any]) -> Message:
    """The message of a decision or an outcome; `InvalidPayload` for what has no JSON.

    Its time is now unless told otherwise, not when it leaves the queue. What is None is left out.
    """
    now = time.time_ns()
    said = {name: finite(value) for name, value in fields.items() if value is not None}
    said.setdefault("timestamp", datetime.fromtimestamp(now / 1e9, UTC))
    try:
        payload = orjson.dumps(
            {**said.pop("extra", {}), **said}, default=_exact, option=orjson.OPT_NON_STR_KEYS
        )
    except TypeError as error:
        raise InvalidPayload("invalid_json", None, f"cannot be written as JSON: {error}") from None
    return Message(subject, payload, None, None, now)


def recorded(context: Mapping[str, Any]) -> dict[str, Any]:
    """The context as a decision would have it; `InvalidQuestion` for what has no JSON."""
    try:
        said = orjson.dumps(context, default=_exact, option=orjson.OPT_NON_STR_KEYS)
    except TypeError as error:
        raise InvalidQuestion(f"the context cannot be written as JSON: {error}") from None
    plain: dict[str, Any] = orjson.loads(said)
    return plain


def check(message: Message, fields: Mapping[str, Any]) -> None:
    """Raise the `InvalidPayload` that a daemon would make a dead letter of, as far as one can tell here.

    How many bytes, and how many numbers in an embedding, is up to the installation.
    """
    embedding = fields.get("prompt_embedding")
    dimensions = len(embedding) if isinstance(embedding, Sized) else 0
    decode(message, Contract(max_payload_bytes=sys.maxsize, embedding_dimensions=dimensions))


def _exact(value: Any) -> Any:
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, datetime):  # of pandas: orjson takes none but Python's own
        return value.isoformat()
    if hasattr(value, "tolist"):  # arrays and scalars of numpy, pandas, torch
        return value.tolist()
    raise TypeError
