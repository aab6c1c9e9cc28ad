"""The connection to NATS: who we are, how fast a dead peer is noticed, what is said about its errors."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Any, Final

import nats.errors
import structlog
from nats.aio.client import Client

from tracker_daemon import metrics
from tracker_daemon.errors import ConnectionLost, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

    from tracker_daemon.config import NatsSettings

log = structlog.get_logger(__name__)

PING_INTERVAL_SECONDS: Final = 10
RECONNECT_WAIT_SECONDS: Final = 1
FLUSH_TIMEOUT_SECONDS: Final = 2


async def connect(
    settings: NatsSettings, on_lost: Callable[[ConnectionLost], None], *, patient: bool = True
) -> Client:
    """Connect, trying for as long as it takes; `on_lost` is told when the client gives up for good.

    Not `patient`: raise `Unavailable` when no server can be reached now.
    """
    client = Client()
    reporter = _Reporter(client, settings, on_lost)
    try:
        await _connect(client, reporter, settings, patient=patient)
    except (nats.errors.Error, OSError) as error:
        raise Unavailable(f"NATS at {reporter.servers}: {reporter.reason or error}") from error
    await reporter.reconnected()
    return client


async def _connect(client: Client, reporter: _Reporter, settings: NatsSettings, *, patient: bool) -> None:
    await client.connect(
        list(settings.servers),
        name=settings.durable,
        error_cb=reporter.error,
        disconnected_cb=reporter.disconnected,
        reconnected_cb=reporter.reconnected,
        closed_cb=reporter.closed,
        ping_interval=PING_INTERVAL_SECONDS,
        max_outstanding_pings=2,
        reconnect_time_wait=RECONNECT_WAIT_SECONDS,
        allow_reconnect=patient,
        max_reconnect_attempts=-1 if patient else 1,
        **_credentials(settings),
    )


async def disconnect(client: Client) -> None:
    """Send what is still to be sent, acknowledgements above all, and close."""
    if client.is_connected:
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await client.flush(FLUSH_TIMEOUT_SECONDS)
    if not client.is_closed:
        await client.close()


def _credentials(settings: NatsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "user": settings.user,
        "password": settings.password and settings.password.get_secret_value(),
        "token": settings.token and settings.token.get_secret_value(),
        "user_credentials": settings.creds_file and str(settings.creds_file),
        "nkeys_seed": settings.nkey_seed_file and str(settings.nkey_seed_file),
    }
    if settings.tls_ca_file or settings.tls_cert_file:
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_cert_file:
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        options["tls"] = context
    return {name: value for name, value in options.items() if value}


class _Reporter:
    """The callbacks of the client, which must neither raise nor block."""

    def __init__(
        self, client: Client, settings: NatsSettings, on_lost: Callable[[ConnectionLost], None]
    ) -> None:
        self._client = client
        self.servers = ", ".join(server.rpartition("@")[2] for server in settings.servers)
        self._on_lost = on_lost
        self.reason: str | None = None

    async def error(self, error: Exception) -> None:
        if isinstance(error, nats.errors.SlowConsumerError):
            metrics.slow_consumer_drops.inc()
            reason = "the client's queue is full, messages are dropped"
        else:
            reason = str(error) or type(error).__name__
        # An outage repeats the same error every second: said once.
        if reason != self.reason:
            self.reason = reason
            log.warning("NATS", servers=self.servers, reason=reason)

    async def disconnected(self) -> None:
        metrics.nats_connected.set(0)
        if self._client.is_reconnecting:
            log.warning("NATS is away, trying to reach it again", servers=self.servers)

    async def reconnected(self) -> None:
        self.reason = None
        metrics.nats_connected.set(1)
        log.info("connected to NATS", server=self._client.connected_url and self._client.connected_url.netloc)

    async def closed(self) -> None:
        metrics.nats_connected.set(0)
        self._on_lost(ConnectionLost(f"the NATS client closed its connection: {self._client.last_error}"))
