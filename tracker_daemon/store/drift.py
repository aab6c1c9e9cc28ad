"""Drift: so many rejections that schema and messages no longer fit, rather than that messages are bad."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

log = structlog.get_logger(__name__)

WINDOW: Final = 200
"""Messages over which rejections are counted."""
TOLERATED: Final = 4
"""Up to one message in so many may be rejected before it is drift."""
QUIET: Final = 1000
"""Messages without drift after which an operator's override has done its work."""


class Drifted(Misconfigured):
    """The database rejects so much that no further message is blamed for it."""


ROWS: Final = "PostgreSQL rejects", "what is rejected becomes dead letters"
OUTCOMES: Final = "PostgreSQL refuses to show the outcome of", "what is refused stands in the ledger alone"


class Drift:
    """Remembers which of the last decisions and outcomes the database rejected; all writers share one.

    It has no clock, so it is the same at any rate. What was before it began counts as good.
    """

    def __init__(self, words: tuple[str, str] = ROWS) -> None:
        """Begin with nothing rejected; `words` say what happens to messages, and what an override does."""
        self._happens, self._then = words
        self._recent: deque[UUID | None] = deque([None] * WINDOW, WINDOW)
        self._stopped: set[UUID] = set()
        self._noisy: set[UUID] = set()
        self._quiet = 0
        self.overridden = False
        """Whether an operator has said that the messages are to blame."""

    def check(self, batch: UUID, rejected: Mapping[UUID, int], why: str) -> None:
        """Raise `Drifted` if one rejection more, the last of these, is more than is tolerated.

        `batch`: the identity of its first message, the same at every attempt. `rejected`: the identities of
        those of its decisions and outcomes that the database rejects, in their order, each with its number
        among them from 0. `why`: the last rejection, without data.
        """
        last = max(rejected.values())
        before = set(list(self._recent)[last + 1 :]) - {None}
        # Sets: what is delivered again and again is one message, however often it is rejected.
        count = len(before | {one for one, number in rejected.items() if number > last - WINDOW})
        if count * TOLERATED <= WINDOW:
            return
        if self.overridden:
            self._noisy.add(batch)
            return
        self._stopped.add(batch)
        raise Drifted(
            f"{self._happens} {count} of the last {WINDOW} messages, one of them with {why}: schema "
            "and messages no longer fit. Put the schema right: writing resumes by itself. Or, if messages "
            "are to blame, send SIGUSR1 (systemctl kill -s SIGUSR1 tracker-daemon, docker kill -s USR1 "
            f"CONTAINER): {self._then}"
        )

    def remember(self, batch: UUID, fates: Sequence[UUID | None]) -> None:
        """Take in a batch that is committed: in order, the identity of each row rejected, None for others."""
        self._stopped.discard(batch)
        for fate in fates[-WINDOW:]:
            # What comes again takes its place anew instead of pushing another one out.
            if fate is not None and fate in self._recent:
                self._recent.remove(fate)
            self._recent.append(fate)
        self._quiet = 0 if batch in self._noisy else self._quiet + len(fates)
        self._noisy.discard(batch)
        # A batch that was stopped tries again only after a while: until it has, the others' good rows prove
        # nothing about it.
        if self.overridden and not self._stopped and self._quiet >= QUIET:
            self.overridden = False
            log.info("few rejections again: from now on many of them pause writing, as before SIGUSR1")

    def override(self) -> bool:
        """Let rejections through until they are few again; return whether they kept a batch waiting."""
        if self._stopped:
            self.overridden, self._quiet = True, 0
            log.warning(
                "SIGUSR1: too many rejections are let through until they are few again", then=self._then
            )
        return bool(self._stopped)
