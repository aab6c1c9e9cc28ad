"""nats-py's client, made to insist on TLS where it is asked for, and to say what is wrong with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import nats.errors
from nats.aio.client import Client

from tracker_daemon import tls

if TYPE_CHECKING:
    from nats.aio.client import Srv

    from tracker_daemon.config import NatsSettings

_OWN_CERTIFICATE: Final = "TRACKER_NATS_TLS_CERT_FILE"


class _Disagreement(nats.errors.Error):
    """Server and settings do not ask for the same: TLS, or a certificate of the client."""


class InsistentClient(Client):
    """nats-py's client, which by itself goes on in plain text, login and all, where no TLS is offered."""

    def __init__(self, settings: NatsSettings) -> None:
        """Take from the settings whether there is a certificate to show; nothing is connected yet."""
        super().__init__()
        self._has_certificate = settings.tls_cert_file is not None

    async def _connect_to_server(self, s: Srv) -> None:
        if self._transport:
            # nats-py forgets the socket of an attempt that failed after it was connected.
            self._transport.close()  # type: ignore[no-untyped-call]
        await super()._connect_to_server(s)

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
        if info.get("tls_verify") and not self._has_certificate:
            return (
                f"the server demands a certificate of each client: name one in {_OWN_CERTIFICATE} "
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
