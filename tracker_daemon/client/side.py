"""What a tracker stands on: somewhere to hand messages over, and to ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.errors import TrackerError
    from tracker_daemon.messages import Message
    from tracker_daemon.postgres import Connection

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Asked(Protocol[T_co]):
    """A question, which knows what answers it."""

    async def answer(self, connection: Connection) -> T_co:
        """Ask the database itself."""
        ...


class Listing(Asked[T_co], Protocol[T_co]):
    """A question that a page answers."""

    @property
    def limit(self) -> int:
        """How many rows the page has at most."""
        ...


class Side(Protocol):
    """NATS, or PostgreSQL."""

    async def send(self, messages: Sequence[Message]) -> list[TrackerError | None]:
        """Hand messages over, and return for each why it was not, None: it is safe now.

        `Unavailable`, for one or raised for all, is worth another attempt with the same message, which leaves
        no second row.
        """
        ...

    async def ask(self, question: Asked[T]) -> T:
        """Return the answer; raise `InvalidQuestion`, or `Unavailable` where nobody answers now."""
        ...

    async def close(self) -> None:
        """Give up every connection of its own, also those that a cancelled `send` still holds."""
        ...
