"""What is told of a NATS client, to the log, the metrics and the daemon, and when it is given up for dead."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import nats.errors
import structlog

from tracker_daemon import metrics
from tracker_daemon.errors import ConnectionLost, Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.config import NatsSettings
    from tracker_daemon.consumer.client import InsistentClient

log = structlog.get_logger(__name__)

DEAD_SECONDS: Final = 60
"""A client that hears nothing for so long, not even that it failed to connect, is given up."""
LOOK_SECONDS: Final = 1


class Reporter:
    """The callbacks of one client, which must neither raise nor block, and the watch over it."""

    def __init__(
        self,
        client: InsistentClient,
        settings: NatsSettings,
        on_lost: Callable[[Exception], None],
        on_trouble: Callable[[str | None], None],
    ) -> None:
        """`on_lost` and `on_trouble` are told what `connect` promises."""
        self._client = client
        self._servers = ", ".join(server.rpartition("@")[2] for server in settings.servers)
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self._reason: str | None = None
        self._misconfigured = False
        self._errors = 0
        self._watching: asyncio.Task[None] | None = None

    def refusal(self, error: Exception) -> Unavailable:
        """The sentence in which an attempt to connect ends that failed with this error."""
        kind = Misconfigured if self._misconfigured else Unavailable
        return kind(f"NATS at {self._servers}: {self._reason or str(error) or 'no answer in time'}")

    async def connected(self) -> None:
        """Tell of the first connection; from now on there is one to lose, and the client is watched."""
        await self.reconnected()
        self._watching = asyncio.create_task(self._watch())

    async def error(self, error: Exception) -> None:
        """Tell of an error that nats-py has met."""
        self._errors += 1
        if isinstance(error, nats.errors.SlowConsumerError):
            metrics.slow_consumer_drops.inc()
            reason = "the client's queue is full, messages are dropped"
        else:
            words = "no answer in time" if isinstance(error, TimeoutError) else str(error) or repr(error)
            about_tls = self._client.about_tls(error)
            self._misconfigured, reason = about_tls is not None, about_tls or words
        # An outage repeats the same error every second: said once.
        if reason != self._reason:
            self._reason = reason
            self._on_trouble(reason)
            log.warning("trouble with NATS", servers=self._servers, reason=reason)

    async def disconnected(self) -> None:
        """Tell of a connection that has ended, and that another is tried for."""
        metrics.nats_connected.set(0)
        if self._client.is_reconnecting:
            log.warning("NATS is away, trying to reach it again", servers=self._servers)

    async def reconnected(self) -> None:
        """Tell of a connection that stands, and that no trouble is left."""
        self._reason = None
        self._on_trouble(None)
        metrics.nats_connected.set(1)
        url = self._client.connected_url
        log.info("connected to NATS", server=url and url.netloc.rpartition("@")[2])

    async def closed(self) -> None:
        """Tell of a client that has ended for good; an attempt that was given up has lost nothing."""
        metrics.nats_connected.set(0)
        if self._watching is not None:
            self._watching.cancel()
            self._on_lost(ConnectionLost(f"the NATS client closed its connection: {self._client.last_error}"))

    async def _watch(self) -> None:
        """Give up a client that neither hears anything nor tries to: it would look alive for ever.

        An unforeseen exception ends the tasks in which nats-py reads, pings and connects again, and leaves
        its status as it was. Seconds are counted, not read from a clock: those that this process itself
        was frozen are not the client's fault.
        """
        try:
            known, silence = self._heard(), 0
            while silence < DEAD_SECONDS:
                await asyncio.sleep(LOOK_SECONDS)
                if self._client.is_closed:
                    return
                heard = self._heard()
                known, silence = heard, (0 if heard != known else silence + LOOK_SECONDS)
        except Exception as error:
            self._on_lost(error)
            raise
        self._on_lost(
            ConnectionLost(
                f"the NATS client has heard nothing for {DEAD_SECONDS} s, no answer to its pings either, "
                "and does not try to connect anew"
            )
        )

    def _heard(self) -> tuple[int, int, int]:
        pongs: int = self._client._pongs_received  # noqa: SLF001 - there is no public count of them
        return self._client.stats["in_msgs"], pongs, self._errors
