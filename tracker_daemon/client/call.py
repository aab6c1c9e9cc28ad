"""A call of a model, from the question to the answer: timed, and tracked however it ends."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

    from tracker_daemon.client.keywords import Number

MAX_WORDS: Final = 1000
"""Characters that are kept of an exception's message."""


class Call:
    """What a block that asks a model knows in the end; `id` is that of the decision, from the beginning.

    `context` and `extra` hold what was given for them, to be added to.
    """

    __slots__ = (
        *("_began", "_fields", "_track", "action", "confidence", "context", "cost_usd", "extra", "id"),
        *("response", "tokens_used"),
    )

    def __init__(self, id_: UUID, fields: dict[str, Any], track: Callable[..., Awaitable[UUID]]) -> None:
        """Begin with what is known; the rest is set in the block."""
        self._fields = fields
        self._track = track
        self._began = 0.0
        self.id = id_
        self.response = ""
        self.action: str | None = None
        self.confidence: Number | None = fields.get("confidence")
        self.tokens_used: int | None = fields.get("tokens_used")
        self.cost_usd: Number | None = fields.get("cost_usd")
        self.context: dict[str, Any] = dict(fields.get("context") or {})
        self.extra: dict[str, Any] = dict(fields.get("extra") or {})

    async def __aenter__(self) -> Self:
        """Begin to measure."""
        self._began = time.perf_counter()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, error: object, _: object) -> None:
        """Track the decision; of a block that failed with what it has, and the error in `extra`."""
        latency = time.perf_counter() - self._began
        if kind is not None:
            self.extra["error"] = {"type": kind.__name__, "message": str(error)[:MAX_WORDS]}
        known = {
            "id": self.id,
            "response": self.response,
            "action": self.action,
            "confidence": self.confidence,
            "tokens_used": self.tokens_used,
            "cost_usd": self.cost_usd,
            "latency_ms": round(latency * 1000),
            "context": self.context or None,
            "extra": self.extra or None,
        }
        await self._track(**self._fields | known)
