"""Every error that this package raises on purpose; rooms refine them for their own use.

TrackerError                      a sentence for the reader: what happened, to what, what to do
├── InvalidPayload                a message breaks the contract; becomes a dead letter
├── SettingsError                 wrong settings; lists every mistake; exit code 2
├── SchemaError                   the database holds something this version must not touch; exit code 2
├── Unavailable                   Postgres or NATS is away or refuses for now; worth trying again
│   └── Misconfigured             schema, grants or TLS are wrong; tried again, but an operator must act
├── InvalidQuestion               a query asks for what cannot be asked; exit code 1
├── StartupError                  the daemon cannot start (port taken, folder in use); exit code 1
└── ConnectionLost                the NATS client gave up for good; exit code 1
"""

from __future__ import annotations

from typing import Self


class TrackerError(Exception):
    """Base of all errors with a message meant for the reader."""

    def alone(self) -> Self:
        """The error without traceback and causes, to be kept: their frames would keep whole batches."""
        self.__traceback__ = self.__cause__ = self.__context__ = None
        return self


class InvalidPayload(TrackerError):
    """A payload breaks the contract: `reason` code, `field` path (None: the whole payload) and `detail`."""

    def __init__(self, reason: str, field: str | None, detail: str) -> None:
        """Keep the three parts that a dead letter stores."""
        super().__init__(f"{reason}{f' at {field}' if field else ''}: {detail}")
        self.reason = reason
        self.field = field
        self.detail = detail


class SettingsError(TrackerError):
    """Wrong settings; `mistakes` holds one sentence for each, starting with the setting's name."""

    def __init__(self, mistakes: list[str]) -> None:
        """Join the mistakes into one message, a line each."""
        super().__init__("\n".join(mistakes))
        self.mistakes = mistakes


class SchemaError(TrackerError):
    """The database holds a schema that this version must not write to."""


class Unavailable(TrackerError):
    """A server is away or refuses for now; the same call may succeed later."""

    retry_after: float = 0.0
    """For how many seconds there is no use in trying again."""


class Misconfigured(Unavailable):
    """The server answers, but an operator must change something first: its schema, grants, certificates."""


class InvalidQuestion(TrackerError):
    """A query asks for what cannot be asked: a wrong bound, limit, cursor, group."""


class StartupError(TrackerError):
    """The daemon cannot start on this machine as things stand."""


class ConnectionLost(TrackerError):
    """The NATS client closed its connection for good."""
