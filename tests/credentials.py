"""Identities for a nats-server's configuration: nkeys, and the JWTs of operator, account and user."""

from __future__ import annotations

import base64
import hashlib
import os
import time
from typing import TYPE_CHECKING, Any

import msgspec
import nkeys

if TYPE_CHECKING:
    from pathlib import Path

UNLIMITED = {"subs": -1, "data": -1, "payload": -1}
ACCOUNT_UNLIMITED = {"imports": -1, "exports": -1, "wildcards": True, "conn": -1, "leaf": -1, **UNLIMITED}
JETSTREAM_UNLIMITED = {"mem_storage": -1, "disk_storage": -1, "streams": -1, "consumer": -1}


def new_key(prefix: int) -> nkeys.KeyPair:
    """A new key pair of the kind that `prefix` names, such as `nkeys.PREFIX_BYTE_USER`."""
    return nkeys.from_seed(nkeys.encode_seed(os.urandom(32), prefix))


class Operator:
    """Who decides about accounts: an operator with one account that may use JetStream."""

    def __init__(self) -> None:
        """Make the keys; nothing is known to any server yet."""
        self._operator = new_key(nkeys.PREFIX_BYTE_OPERATOR)
        self._account = new_key(nkeys.PREFIX_BYTE_ACCOUNT)
        self._system = new_key(nkeys.PREFIX_BYTE_ACCOUNT)

    @property
    def options(self) -> str:
        """Configuration of a server that lets in only users of the account."""
        operator = {"type": "operator", "system_account": public(self._system)}
        account = {"type": "account", "limits": ACCOUNT_UNLIMITED | JETSTREAM_UNLIMITED}
        system = {"type": "account", "limits": ACCOUNT_UNLIMITED}
        return f"""
            operator: {jwt(self._operator, self._operator, operator)}
            system_account: {public(self._system)}
            resolver: MEMORY
            resolver_preload: {{
                {public(self._account)}: {jwt(self._operator, self._account, account)}
                {public(self._system)}: {jwt(self._operator, self._system, system)}
            }}
        """

    def write_creds(self, file: Path, *, expires_in: int | None = None) -> Path:
        """Write the credentials file of a new user, valid for so many seconds; None: for ever."""
        user = new_key(nkeys.PREFIX_BYTE_USER)
        claims: dict[str, Any] = {"type": "user", **UNLIMITED}
        token = jwt(self._account, user, claims, expires_in=expires_in)
        file.write_text(
            f"-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n"
            f"-----BEGIN USER NKEY SEED-----\n{user.seed.decode()}\n------END USER NKEY SEED------\n"
        )
        return file


def public(key: nkeys.KeyPair) -> str:
    """The public half, as servers are told."""
    encoded: bytes = key.public_key
    return encoded.decode()


def jwt(
    issuer: nkeys.KeyPair, subject: nkeys.KeyPair, nats: dict[str, Any], *, expires_in: int | None = None
) -> str:
    """What `issuer` says about `subject`, signed."""
    claims: dict[str, Any] = {
        "iat": int(time.time()),
        "iss": public(issuer),
        "sub": public(subject),
        "name": nats["type"],
        "nats": {"version": 2, **nats},
    }
    if expires_in is not None:
        claims["exp"] = int(time.time()) + expires_in
    claims["jti"] = (
        base64.b32encode(hashlib.sha256(msgspec.json.encode(claims)).digest()).decode().rstrip("=")
    )
    parts = [_encoded(msgspec.json.encode(part)) for part in ({"typ": "JWT", "alg": "ed25519-nkey"}, claims)]
    signed = ".".join(parts)
    return f"{signed}.{_encoded(issuer.sign(signed.encode()))}"


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")
