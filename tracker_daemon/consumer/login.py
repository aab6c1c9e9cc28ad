"""How the connection to NATS logs in and encrypts: read from the settings, and from the files they name."""

from __future__ import annotations

import base64
import contextlib
import re
import ssl
from typing import TYPE_CHECKING, Any

import nats.errors
import nkeys  # type: ignore[import-untyped]

from tracker_daemon.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tracker_daemon.config import NatsSettings


def login(settings: NatsSettings) -> dict[str, Any]:
    """Options for nats-py's `connect`; a file that is of no use is a `SettingsError`."""
    options: dict[str, Any] = {
        "user": settings.user,
        "password": settings.password and settings.password.get_secret_value(),
        "token": settings.token and settings.token.get_secret_value(),
    }
    if settings.creds_file:
        options |= _callbacks(settings.creds_file)
    if settings.nkey_seed_file:
        options["nkeys_seed_str"] = _seed(settings.nkey_seed_file)
    if settings.tls_ca_file or settings.tls_cert_file:
        options["tls"] = _tls(settings)
    return {name: value for name, value in options.items() if value}


def _callbacks(creds_file: Path) -> dict[str, Any]:
    """Callbacks that read the credentials anew for each connection: they are renewed while this runs.

    nats-py's own never end, or end its attempts for good, when they find the file half written.
    """
    with _named("TRACKER_NATS_CREDS_FILE"):
        _check_seed(_in_creds(creds_file, "USER NKEY SEED"), "TRACKER_NATS_CREDS_FILE")

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


def _seed(seed_file: Path) -> str:
    with _named("TRACKER_NATS_NKEY_SEED_FILE"):
        seed = seed_file.read_text("utf-8", "replace").strip()
    _check_seed(seed, "TRACKER_NATS_NKEY_SEED_FILE")
    return seed


def _check_seed(seed: str, setting: str) -> None:
    try:
        nkeys.from_seed(bytearray(seed, "utf-8"))
    except Exception:  # noqa: BLE001 - nkeys raises whatever comes, with the seed in reach of its traceback
        raise SettingsError([f"{setting}: the file that it names holds no seed of a NATS user"]) from None


def _tls(settings: NatsSettings) -> ssl.SSLContext:
    with _named("TRACKER_NATS_TLS_CA_FILE"):
        context = ssl.create_default_context(cafile=settings.tls_ca_file)
    if settings.tls_cert_file:
        with _named("TRACKER_NATS_TLS_CERT_FILE or _KEY_FILE"):
            context.load_cert_chain(settings.tls_cert_file, settings.tls_key_file)
    return context


@contextlib.contextmanager
def _named(setting: str) -> Iterator[None]:
    """Turn a file that cannot be used into a mistake of the setting that names it."""
    try:
        yield
    except OSError as error:
        why = error.strerror or error
        raise SettingsError([f"{setting}: the file that it names cannot be used: {why}"]) from error
