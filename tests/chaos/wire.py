"""What passes a proxy, cut at the moments at which a fault tells most."""

from __future__ import annotations

import struct
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple

_NEGOTIATIONS: Final = (80877103, 80877104)  # SSLRequest, GSSENCRequest
_LONGEST_COMMIT: Final = 32


class Moment(StrEnum):
    """When a fault can strike; those of PostgreSQL concern transactions in which a COPY was begun."""

    MID_COPY = "mid-copy"
    """Half of a COPY's first CopyData has gone on, the rest has not, which can pass or be reset only."""
    BEFORE_COMMIT = "before-commit"
    """The client's COMMIT has come and has not gone on."""
    AFTER_COMMIT = "after-commit"
    """The server has committed, and its word of it has not gone on."""
    ACK = "ack"
    """The ack of a JetStream message has come and has not gone on."""


class Piece(NamedTuple):
    """Bytes on their way, and the moment at which they are, if it is one."""

    data: memoryview
    moment: Moment | None


class Frame(NamedTuple):
    """The next `size` bytes of one direction belong together."""

    size: int
    moment: Moment | None = None


Feed = Callable[[bytes], Iterator[Piece]]


class Framing(ABC):
    """One direction of one connection; a frame is never held back longer than it takes to tell its moment."""

    def __init__(self) -> None:
        """Begin at the first byte of the connection."""
        self._untold = b""
        self._passing = 0

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield what can go on, in order; bytes without a moment in one piece as long as possible."""
        data = self._untold + chunk
        view = memoryview(data)
        start = at = 0
        while at < len(data):
            moment = None
            if not self._passing:
                frame = self._frame(data, at)
                if frame is None:
                    break
                self._passing, moment = frame
            end = min(at + self._passing, len(data))
            self._passing -= end - at
            if moment is not None:
                if start < at:
                    yield Piece(view[start:at], None)
                yield Piece(view[at:end], moment)
                start = end
            at = end
        self._untold = data[at:]
        if start < at:
            yield Piece(view[start:at], None)

    @abstractmethod
    def _frame(self, data: bytes, at: int) -> Frame | None:
        """Return the frame that begins at `at`, which may end beyond `data`; None: more is needed to tell."""


@dataclass
class _Session:
    """What the two directions of a PostgreSQL connection know of each other."""

    negotiating: bool = False
    copied: bool = False


class _PostgresClient(Framing):
    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session
        self._started = False
        self._copying = False
        self._half = 0

    def _frame(self, data: bytes, at: int) -> Frame | None:
        if not self._started:
            return self._startup(data, at)
        if self._half:
            size, self._half = self._half, 0
            return Frame(size, Moment.MID_COPY)
        return self._message(data, at)

    def _message(self, data: bytes, at: int) -> Frame | None:
        if len(data) < at + 5:
            return None
        kind, length = struct.unpack_from("!cI", data, at)
        size = 1 + length
        # asyncpg sends the data right behind its COPY: the server's consent to it comes too late to go by.
        begins = kind == b"d" and not self._copying
        self._copying = kind == b"d"
        if begins:
            self._session.copied = True
            self._half = size // 2
            return Frame(size - self._half)
        if kind != b"Q" or not self._session.copied or size > _LONGEST_COMMIT:
            return Frame(size)
        if len(data) < at + size:
            return None
        statement = data[at + 5 : at + size].strip(b"\0; ").upper()
        return Frame(size, Moment.BEFORE_COMMIT if statement == b"COMMIT" else None)

    def _startup(self, data: bytes, at: int) -> Frame | None:
        """Frame a message from before the time of types: a request for encryption, or the last such one."""
        if len(data) < at + 8:
            return None
        length, code = struct.unpack_from("!II", data, at)
        self._session.negotiating = code in _NEGOTIATIONS
        self._started = not self._session.negotiating
        return Frame(length)


class _PostgresServer(Framing):
    def __init__(self, session: _Session) -> None:
        super().__init__()
        self._session = session

    def _frame(self, data: bytes, at: int) -> Frame | None:
        if self._session.negotiating:
            if data[at : at + 1] != b"N":
                raise ValueError("the server encrypts, which leaves nothing to watch: switch its TLS off")
            self._session.negotiating = False
            return Frame(1)
        if len(data) < at + 5:
            return None
        kind, length = struct.unpack_from("!cI", data, at)
        size = 1 + length
        if kind in b"CZ" and len(data) < at + size:
            return None
        if kind == b"C" and self._session.copied and data[at + 5 : at + size] == b"COMMIT\0":
            return Frame(size, Moment.AFTER_COMMIT)
        if kind == b"Z" and data[at + 5 : at + size] == b"I":
            # Idle: only now is a transaction over. The tag ROLLBACK may be that of a savepoint.
            self._session.copied = False
        return Frame(size)


class _NatsClient(Framing):
    def _frame(self, data: bytes, at: int) -> Frame | None:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        line = data[at:end]
        begun = end + 2
        if not line.startswith((b"PUB ", b"HPUB ")):
            return Frame(begun - at)
        length = int(line.rsplit(b" ", 1)[1])
        size = begun + length + 2 - at
        if line.startswith(b"PUB $JS.ACK.") and length in {0, 4}:
            if len(data) < at + size:
                return None
            if data[begun : begun + length] in {b"", b"+ACK"}:
                return Frame(size, Moment.ACK)
        return Frame(size)


def postgres() -> tuple[Feed, Feed]:
    """Return the framing of a new connection to PostgreSQL: from its client, from its server."""
    session = _Session()
    return _PostgresClient(session).feed, _PostgresServer(session).feed


def nats() -> tuple[Feed, Feed]:
    """Return the framing of a new connection to NATS: from its client, and from its server, uncut."""
    return _NatsClient().feed, _uncut


def _uncut(chunk: bytes) -> Iterator[Piece]:
    yield Piece(memoryview(chunk), None)
