"""What is known, kept in memory: read again and again, and not gone by once it is too old."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import structlog

from tracker_daemon.choices.known import Known
from tracker_daemon.errors import TrackerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from contextlib import AbstractAsyncContextManager

    from tracker_daemon.postgres import Connection

log = structlog.get_logger(__name__)

REFRESH_SECONDS: Final = 2.0
"""After how long experiments, policies, pins and switches are read anew."""
BOUND_SECONDS: Final = 30.0
"""For how long there are answers while they cannot be."""


class Stale(Unavailable):
    """What is known is too old to go by."""


class Memory:
    """Knows what was read last; for as long as it runs, or whenever somebody recalls it, that is renewed."""

    def __init__(self, asking: Callable[[], AbstractAsyncContextManager[Connection]]) -> None:
        """Keep how to come to a connection inside `reading`; nothing is read yet."""
        self._asking = asking
        self._known: Known | None = None
        self._renewing: asyncio.Task[None] | None = None
        self._troubled = False
        self._illegible: frozenset[str] = frozenset()

    async def run(self) -> None:
        """Renew it until cancelled."""
        while True:
            await self._renew()
            await asyncio.sleep(REFRESH_SECONDS)

    def known(self) -> Known:
        """Return what is known; raise `Stale` where it is too old, or nothing is."""
        if self._known is not None and self._known.age_seconds <= BOUND_SECONDS:
            return self._known
        raise Stale(
            f"experiments and policies have not been read for {BOUND_SECONDS:g} s: decide by your default"
        )

    async def recall(self) -> Known:
        """Return what is known, and have it renewed if it is not fresh; wait only where it is too old."""
        age = BOUND_SECONDS if self._known is None else self._known.age_seconds
        if age > REFRESH_SECONDS and (self._renewing is None or self._renewing.done()):
            self._renewing = asyncio.create_task(self._renew())
        if age >= BOUND_SECONDS and self._renewing is not None:
            await asyncio.shield(self._renewing)
        return self.known()

    async def close(self) -> None:
        """End what is under way."""
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.wait({self._renewing})

    async def _renew(self) -> None:
        try:
            async with self._asking() as connection:
                self._known = await Known.read(connection, self._known)
        except Exception as error:  # noqa: BLE001 - what somebody wrote into these tables must end nothing
            self._say(error.alone() if isinstance(error, TrackerError) else error)
        else:
            self._say(None)
            self._say_illegible(self._known.illegible)

    def _say(self, trouble: Exception | None) -> None:
        """Log what keeps it from being renewed, once, and its end."""
        if trouble and not self._troubled:
            defect = None if isinstance(trouble, TrackerError) else trouble
            log.warning("experiments and policies cannot be read", reason=str(trouble), exc_info=defect)
        elif self._troubled and not trouble:
            log.info("experiments and policies are read again")
        self._troubled = trouble is not None

    def _say_illegible(self, illegible: frozenset[str]) -> None:
        """Log each experiment and policy that cannot be read, once, and that all can be."""
        for why in sorted(illegible - self._illegible):
            log.warning("nothing is chosen by what cannot be read", reason=why)
        if self._illegible and not illegible:
            log.info("every experiment and policy can be read again")
        self._illegible = illegible
