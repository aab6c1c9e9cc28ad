"""The connection to NATS: made, published over, and ended."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Final

import nats.errors

from tracker_daemon.consumer.client import InsistentClient
from tracker_daemon.consumer.login import login
from tracker_daemon.consumer.reporter import Reporter
from tracker_daemon.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.aio.client import Client
    from nats.aio.subscription import Subscription

    from tracker_daemon.config import NatsSettings

PING_INTERVAL_SECONDS: Final = 10
RECONNECT_WAIT_SECONDS: Final = 1
ATTEMPT_SECONDS: Final = 10
FLUSH_TIMEOUT_SECONDS: Final = 2
FINISH_SECONDS: Final = 5


async def connect(
    settings: NatsSettings,
    on_lost: Callable[[Exception], None],
    on_trouble: Callable[[str | None], None] = lambda _: None,
    *,
    patient: bool = True,
) -> Client:
    """Connect, trying for as long as it takes; `on_lost` is told when the client gives up for good.

    It gets a `ConnectionLost`, or the defect that ended the watch over the client. `on_trouble` is told why
    NATS is out of reach, and None once it is not. Not `patient`: raise `Unavailable` when no server can be
    reached now, `Misconfigured` when TLS is in the way. A file that cannot be read, or a login file without
    a login in it, is a `SettingsError`.
    """
    options = login(settings)
    while True:
        # A client of its own for each attempt: one that failed in a TLS handshake never recovers.
        client = InsistentClient(settings)
        reporter = Reporter(client, settings, on_lost, on_trouble)
        try:
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await _connect(client, reporter, settings, options, patient=patient)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            refusal = reporter.refusal(error)
            await disconnect(client)  # which has troubles of its own to report
            if not patient:
                raise refusal from error
        else:
            await reporter.connected()
            return client


async def _connect(
    client: InsistentClient,
    reporter: Reporter,
    settings: NatsSettings,
    options: dict[str, Any],
    *,
    patient: bool,
) -> None:
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
        **options,
    )


async def disconnect(client: Client) -> None:
    """Send what is still to be sent, acknowledgements above all, and close."""
    # What is not sent now, or not heard, is delivered again and recognised then.
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        if client.is_connected:
            await _ping(client, FLUSH_TIMEOUT_SECONDS)
    with contextlib.suppress(nats.errors.Error, OSError, TimeoutError):
        async with asyncio.timeout(FLUSH_TIMEOUT_SECONDS):
            await client.close()


async def finish(client: Client, subscriptions: Iterable[Subscription]) -> None:
    """End subscriptions; what has arrived is still handed on, for `FINISH_SECONDS` at most."""
    if not client.is_connected:
        return
    with contextlib.suppress(nats.errors.Error, TimeoutError):
        # First and by itself: the PING of drain() overtakes its UNSUB, and what comes in between is dropped.
        for subscription in subscriptions:
            await client._send_unsubscribe(subscription._id)  # noqa: SLF001 - there is no public way
        await _ping(client, FINISH_SECONDS)
        async with asyncio.timeout(FINISH_SECONDS):
            for subscription in subscriptions:
                await subscription.drain()  # type: ignore[no-untyped-call]


async def publish_surely(client: Client, subject: str, payload: bytes) -> None:
    """Publish, and return when the server has it; `Unavailable` when that cannot be said."""
    try:
        if not client.is_connected:
            raise nats.errors.ConnectionClosedError
        await client.publish(subject, payload)
        for _ in range(2):  # the first PING may overtake what is still buffered
            await _ping(client, FLUSH_TIMEOUT_SECONDS)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable(f"cannot publish to {subject}: {str(error) or 'NATS does not answer'}") from error


async def _ping(client: Client, seconds: float) -> None:
    # Not flush(): it cancels this future when it gives up waiting, and a late PONG then breaks the read loop.
    pong = asyncio.get_running_loop().create_future()
    await client._send_ping(pong)  # noqa: SLF001 - there is no public way
    await asyncio.wait({pong}, timeout=seconds)
    if not pong.done():
        raise TimeoutError


async def publish_to_all(client: Client, subjects: Iterable[str], payload: str = "") -> None:
    """Publish the same, of ASCII, to many subjects in one piece; they must come from the server itself.

    A publish for each costs the daemon 2 µs a message more, of about 50.
    """
    if not client.is_connected:
        raise nats.errors.ConnectionClosedError
    end = f" {len(payload)}\r\n{payload}\r\n"
    if commands := "".join([f"PUB {subject}{end}" for subject in subjects]):
        await client._send_command(commands.encode())  # noqa: SLF001 - there is no public way
        await client._flush_pending()  # noqa: SLF001 - the same
