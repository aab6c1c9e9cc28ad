"""Kinds of values: sizes, URLs, secrets, names; how each is read, checked and shown."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from tracker_daemon.redaction import Preset, Redactor

if TYPE_CHECKING:
    from collections.abc import Callable

MASK = "********"
_SIZE = re.compile(r"\s*(-?\d{1,18})\s*(?:([KMG])iB)?\s*")
_HOST = re.compile(r"(\[[^\[\]@]+\]|[^\[\]:@]*)(?::(\d{1,5}))?")
_PARAMETER = re.compile(r"([?&][^=&#]*)=[^&#]*")
_ENCODE = "in user and password write @ : / ? # % as %40 %3A %2F %3F %23 %25"


def must(be: Callable[[Any], object], words: str) -> AfterValidator:
    """Accept what `be` finds true; the mistake says what a value must be in `words`."""

    def check(value: Any) -> Any:
        if not be(value):
            raise ValueError(f"must be {words}, got {value!r:.60}")
        return value

    return AfterValidator(check)


def _bytes(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    size = _SIZE.fullmatch(value)
    if not size:
        raise ValueError(f"must be a number of bytes, KiB, MiB or GiB, such as 8MiB, got {value!r:.60}")
    return int(size[1]) << {None: 0, "K": 10, "M": 20, "G": 30}[size[2]]


def masked(url: str) -> str:
    """The URL with its passwords hidden."""
    # Greedy up to the last @: should a URL be malformed, rather too much is hidden than too little.
    url = re.sub(r"(?s)(://[^:/?#@]*:).*@", rf"\1{MASK}@", url)
    return _PARAMETER.sub(_masked_parameter, url)


def _masked_parameter(parameter: re.Match[str]) -> str:
    name = parameter[1]
    return f"{name}={MASK}" if "password" in unquote_plus(name).lower() else parameter[0]


def _url(*schemes: str, needs_host: bool) -> AfterValidator:
    """Accept a well-formed URL, as text or secret; no error quotes it, as any part may hold the password."""

    def check(value: Any) -> Any:
        url = value.get_secret_value() if isinstance(value, SecretStr) else value
        if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)):
            raise ValueError(f"must start with {' or '.join(f'{scheme}://' for scheme in schemes)}")
        try:
            parts = urlsplit(url)
            query = dict(parse_qsl(parts.query, strict_parsing=True)) if parts.query else {}
        except ValueError:
            raise ValueError(f"must be a well-formed URL; {_ENCODE}") from None
        _, at, hosts = parts.netloc.rpartition("@")
        if url.count("@") > len(at) or re.search(r"[#\s]", url):
            raise ValueError(f"must have at most one @, before the host, no # and no white space; {_ENCODE}")
        for place in [*hosts.split(","), *(f":{port}" for port in query.get("port", "0").split(","))]:
            match = _HOST.fullmatch(place)
            if not match or int(match[2] or 0) > 65535:
                raise ValueError(f"must have as its port a number of at most 65535; {_ENCODE}")
        several = [listed.split(",") for listed in (hosts, query.get("host", "")) if "," in listed]
        if (needs_host and not parts.hostname) or any(not all(names) for names in several):
            raise ValueError("must name a host")
        return value

    return AfterValidator(check)


def _plain(url: str) -> str:
    if re.search(r"[@?]", url):
        raise ValueError("must be nothing but scheme, host, port and path; a key has a setting of its own")
    return url


class Lines(tuple[str, ...]):
    """Texts that may hold commas: they are read and shown one a line."""

    __slots__ = ()


def _split(separators: str) -> BeforeValidator:
    """Read a text as a list, without white space around its entries: no pattern means it, or would match."""

    def entries(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return [*filter(None, map(str.strip, re.split(separators, value)))]

    return BeforeValidator(entries)


def _redactable(patterns: Any) -> Any:
    """Accept one pattern, or several, that a redactor can take beside all presets."""
    Redactor(get_args(Preset), [patterns] if isinstance(patterns, str) else patterns)
    return patterns


class Dsn(SecretStr):
    """A PostgreSQL URL whose text shows everything but the password."""

    def _display(self) -> str:
        return masked(self.get_secret_value())


Unset = BeforeValidator(lambda value: None if value == "" else value)
Folded = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
Split = _split("[,\n]")
Server = Annotated[str, _url("nats", "tls", "ws", "wss", needs_host=True)]
DsnText = Annotated[Dsn, _url("postgresql", "postgres", needs_host=False)]
Endpoint = Annotated[str, _url("http", "https", needs_host=True), AfterValidator(_plain)]
Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
StreamName = Annotated[
    str, must(re.compile(r"[^\s.*>/\\]{1,255}").fullmatch, r"a name without . * > / \ or white space")
]
Subject = Annotated[
    str, must(re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*").fullmatch, "a subject without wildcards or white space")
]
Patterns = Annotated[
    tuple[Annotated[str, AfterValidator(_redactable)], ...],
    AfterValidator(_redactable),
    AfterValidator(Lines),
    _split("\n"),
]
File = Annotated[Path | None, Unset]
Secret = Annotated[SecretStr | None, Unset]


def printable(value: Any) -> str:
    """The value as a listing may show it: secrets masked, empty where unset."""
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case Lines():
            return "\n".join(value)
        case tuple():  # of server URLs, where a user without a password is a token
            return ",".join(re.sub(r"://[^:/@]+@", f"://{MASK}@", masked(url)) for url in value)
        case SecretStr() if not isinstance(value, Dsn):
            return MASK
        case _:
            return str(value)
