"""Where a consumer puts its messages: room like a batch writer's, and a hand that takes them out again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.waiting import until
from tracker_daemon import metrics

if TYPE_CHECKING:
    from tracker_daemon.messages import Message, Token

MIB = 1024 * 1024


class Inbox:
    """Holds messages within bounds of rows and bytes, and remembers everything that ever came."""

    def __init__(self, rows: int = 1000, size: int = 64 * MIB) -> None:
        """Begin empty, with room for `rows` messages of together `size` bytes."""
        self.all: list[Message] = []
        self.least = (rows, size)
        """The least rows and bytes that were ever free: negative once the bound was broken."""
        self._rows = rows
        self._size = size
        self._held: list[tuple[Message, Token | None]] = []

    def room(self) -> tuple[int, int]:
        """Messages and bytes that may still come."""
        held = sum(len(message.payload) for message, _ in self._held)
        return self._rows - len(self._held), self._size - held

    def receive(self, message: Message, token: Token | None) -> None:
        """Take a message in."""
        self.all.append(message)
        self._held.append((message, token))
        rows, size = self.room()
        self.least = (min(self.least[0], rows), min(self.least[1], size))

    def take(self, count: int | None = None) -> list[Token]:
        """Take the oldest messages out, all without a count, and return what acknowledges them."""
        taken, self._held = self._held[:count], self._held[len(self._held) if count is None else count :]
        return [token for _, token in taken if token]

    async def until(self, count: int) -> None:
        """Wait until so many messages have come, ever."""
        await until(lambda: len(self.all) >= count)

    def payloads(self) -> list[bytes]:
        """The payloads of everything that ever came, in order."""
        return [message.payload for message in self.all]

    def sequences(self) -> list[int | None]:
        """The stream sequences of everything that ever came, in order."""
        return [message.sequence for message in self.all]


def received(subject: str) -> float:
    """Messages of a subject that have come so far, in all tests."""
    metrics.known_subjects.add(subject)
    labels = {"subject": subject}
    return metrics.registry.get_sample_value("tracker_messages_received_total", labels) or 0.0
