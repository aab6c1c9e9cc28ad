"""The connection to NATS: who we are, how fast a dead peer is noticed, what is said about its errors."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any, Final

import nats.errors
import nkeys  # type: ignore[import-untyped]
import structlog
from nats.aio.client import Client

from tracker_daemon import metrics, tls
from tracker_daemon.errors import ConnectionLost, Misconfigured, SettingsError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from nats.aio.subscription import Subscription

    from tracker_daemon.config import NatsSettings

log = structlog.get_logger(__name__)

PING_INTERVAL_SECONDS: Final = 10
RECONNECT_WAIT_SECONDS: Final = 1
ATTEMPT_SECONDS: Final = 10
FLUSH_TIMEOUT_SECONDS: Final = 2
FINISH_SECONDS: Final = 5
DEAD_SECONDS: Final = 60
"""A client that hears nothing for so long, not even that it failed to connect, is given up."""
LOOK_SECONDS: Final = 1

_OWN_CERTIFICATE: Final = "TRACKER_NATS_TLS_CERT_FILE"


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
    options = _credentials(settings)
    while True:
        client = _Client(settings)
        reporter = _Reporter(client, settings, on_lost, on_trouble)
        try:
            # A client of its own for each attempt: one that failed in a TLS handshake never recovers.
            async with asyncio.timeout(ATTEMPT_SECONDS):
                await _connect(client, reporter, settings, options, patient=patient)
        except (nats.errors.Error, OSError, TimeoutError) as error:
            reason = reporter.reason or str(error) or "no answer in time"
            kind = Misconfigured if reporter.misconfigured else Unavailable
            await disconnect(client)  # which has troubles of its own to report
            if not patient:
                raise kind(f"NATS at {reporter.servers}: {reason}") from error
        else:
            await reporter.reconnected()
            reporter.watching = asyncio.create_task(reporter.watch())
            return client


async def _connect(
    client: _Client, reporter: _Reporter, settings: NatsSettings, options: dict[str, Any], *, patient: bool
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
            await client.flush(FLUSH_TIMEOUT_SECONDS)
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
        await client.flush(FINISH_SECONDS)
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
            await _ping(client)
    except (nats.errors.Error, OSError, TimeoutError) as error:
        raise Unavailable(f"cannot publish to {subject}: {str(error) or 'NATS does not answer'}") from error


async def _ping(client: Client) -> None:
    # Not flush(): it cancels this future when it gives up waiting, and a late PONG then breaks the read loop.
    pong = asyncio.get_running_loop().create_future()
    await client._send_ping(pong)  # noqa: SLF001 - there is no public way
    await asyncio.wait({pong}, timeout=FLUSH_TIMEOUT_SECONDS)
    if not pong.done():
        raise TimeoutError


async def publish_to_all(client: Client, subjects: Iterable[str], payload: bytes = b"") -> None:
    """Publish the same to many subjects in one piece; they must come from the server itself.

    A publish for each costs the daemon 2 µs a message more, of about 50.
    """
    if not client.is_connected:
        raise nats.errors.ConnectionClosedError
    end = b" %d\r\n%b\r\n" % (len(payload), payload)
    if commands := b"".join([b"PUB " + subject.encode() + end for subject in subjects]):
        await client._send_command(commands)  # noqa: SLF001 - there is no public way
        await client._flush_pending()  # noqa: SLF001 - the same


def _credentials(settings: NatsSettings) -> dict[str, Any]:
    options: dict[str, Any] = {
        "user": settings.user,
        "password": settings.password and settings.password.get_secret_value(),
        "token": settings.token and settings.token.get_secret_value(),
    }
    if settings.creds_file:
        with _named("TRACKER_NATS_CREDS_FILE"):
            _check_seed(_in_creds(settings.creds_file, "USER NKEY SEED"), "TRACKER_NATS_CREDS_FILE")
        options |= _login(settings.creds_file)
    if settings.nkey_seed_file:
        with _named("TRACKER_NATS_NKEY_SEED_FILE"):
            seed = settings.nkey_seed_file.read_text("utf-8", "replace").strip()
        _check_seed(seed, "TRACKER_NATS_NKEY_SEED_FILE")
        options["nkeys_seed_str"] = seed
    if settings.tls_ca_file or settings.tls_cert_file:
        with _named("TRACKER_NATS_TLS_CA_FILE"):
            context = ssl.create_default_context(cafile=settings.tls_ca_file)
        if settings.tls_cert_file:
            with _named("TRACKER_NATS_TLS_CERT_FILE or _KEY_FILE"):
                context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
        options["tls"] = context
    return {name: value for name, value in options.items() if value}


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    """Turn a file that cannot be used into a mistake of the setting that names it."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise SettingsError([f"{setting}: the file that it names cannot be used: {why}"]) from error


def _login(creds_file: Path) -> dict[str, Any]:
    """Callbacks that read the credentials anew for each connection: they are renewed while this runs.

    nats-py's own never end, or end its attempts for good, when they find the file half written.
    """

    def read(section: str) -> str:
        if found := _in_creds(creds_file, section):
            return found
        raise nats.errors.Error(f"no {section} in the file that TRACKER_NATS_CREDS_FILE names")

    def sign(nonce: str) -> bytes:
        seed = bytearray(read("USER NKEY SEED"), "utf-8")
        try:
            signed = nkeys.from_seed(seed).sign(nonce.encode())
        except Exception:  # noqa: BLE001 - nkeys raises whatever comes, with the seed in reach of its traceback
            raise nats.errors.Error("no seed in the file that TRACKER_NATS_CREDS_FILE names") from None
        return base64.b64encode(signed)

    return {"signature_cb": sign, "user_jwt_cb": lambda: read("NATS USER JWT").encode()}


def _in_creds(creds_file: Path, section: str) -> str:
    """What a credentials file holds between the lines that begin and end a section; empty: nothing."""
    text = creds_file.read_text("utf-8", "replace")
    found = re.search(rf"-+BEGIN {section}-+\s*(\S+)\s*-+END {section}-+", text)
    return found[1] if found and "BEGIN NATS USER JWT" in text else ""


def _check_seed(seed: str, setting: str) -> None:
    try:
        nkeys.from_seed(bytearray(seed, "utf-8"))
    except Exception:  # noqa: BLE001 - nkeys raises whatever comes, with the seed in reach of its traceback
        raise SettingsError([f"{setting}: the file that it names holds no seed of a NATS user"]) from None


class _Disagreement(nats.errors.Error):
    """Server and settings do not ask for the same: TLS, or a certificate of the client."""


class _Client(Client):
    """nats-py's client, which by itself goes on in plain text, login and all, where no TLS is offered."""

    def __init__(self, settings: NatsSettings) -> None:
        super().__init__()
        self._named_certificate = settings.tls_cert_file is not None

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        if initial_connection and self._transport and (words := self._disagreement(info)):
            # nats-py leaves it open, and makes another.
            self._transport.close()  # type: ignore[no-untyped-call]
            raise _Disagreement(words)
        await super()._process_info(info, initial_connection)

    def _disagreement(self, info: dict[str, Any]) -> str | None:
        scheme = self._current_server.uri.scheme if self._current_server else ""
        if scheme.startswith("ws"):  # wss:// begins with TLS, and says nothing of it here
            return None
        if not info.get("tls_required"):
            if scheme != "tls" and "tls" not in self.options:
                return None
            return (
                "the server does not demand TLS, so the login would go there unencrypted: switch TLS on "
                "at the server, or for a connection without it write nats:// and no TRACKER_NATS_TLS_*"
            )
        if info.get("tls_verify") and not self._named_certificate:
            return (
                "the server demands a certificate of each client: name one in TRACKER_NATS_TLS_CERT_FILE "
                "and its key in TRACKER_NATS_TLS_KEY_FILE"
            )
        return None

    def about_tls(self, error: Exception) -> str | None:
        """What an error says about TLS and certificates, if it does."""
        if isinstance(error, _Disagreement):
            return str(error)
        # Where it refuses a certificate, the server may be gone before its reason is read.
        broken = isinstance(error, BrokenPipeError | ConnectionResetError)
        if broken and self.is_connecting and self._server_info.get("tls_verify"):
            return tls.hung_up(_OWN_CERTIFICATE)
        return tls.explained(error, "TRACKER_NATS_TLS_CA_FILE", _OWN_CERTIFICATE)


class _Reporter:
    """The callbacks of the client, which must neither raise nor block."""

    def __init__(
        self,
        client: _Client,
        settings: NatsSettings,
        on_lost: Callable[[Exception], None],
        on_trouble: Callable[[str | None], None],
    ) -> None:
        self._client = client
        self.servers = ", ".join(server.rpartition("@")[2] for server in settings.servers)
        self._on_lost = on_lost
        self._on_trouble = on_trouble
        self.reason: str | None = None
        self.misconfigured = False
        self.watching: asyncio.Task[None] | None = None
        self._connected = False
        self._errors = 0

    async def watch(self) -> None:
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

    async def error(self, error: Exception) -> None:
        self._errors += 1
        if isinstance(error, nats.errors.SlowConsumerError):
            metrics.slow_consumer_drops.inc()
            reason = "the client's queue is full, messages are dropped"
        else:
            words = "no answer in time" if isinstance(error, TimeoutError) else str(error) or repr(error)
            about_tls = self._client.about_tls(error)
            self.misconfigured, reason = about_tls is not None, about_tls or words
        # An outage repeats the same error every second: said once.
        if reason != self.reason:
            self.reason = reason
            self._on_trouble(reason)
            log.warning("trouble with NATS", servers=self.servers, reason=reason)

    async def disconnected(self) -> None:
        metrics.nats_connected.set(0)
        if self._client.is_reconnecting:
            log.warning("NATS is away, trying to reach it again", servers=self.servers)

    async def reconnected(self) -> None:
        self.reason = None
        self._on_trouble(None)
        self._connected = True
        metrics.nats_connected.set(1)
        url = self._client.connected_url
        log.info("connected to NATS", server=url and url.netloc.rpartition("@")[2])

    async def closed(self) -> None:
        metrics.nats_connected.set(0)
        if self.watching is not None:
            self.watching.cancel()
        if self._connected:  # an attempt that was given up has lost nothing
            self._on_lost(ConnectionLost(f"the NATS client closed its connection: {self._client.last_error}"))
