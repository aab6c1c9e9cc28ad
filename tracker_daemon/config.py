"""Every setting: its name, its default, its bounds, and where its value may come from."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import parse_qsl, urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, EnvSettingsSource, NoDecode, SettingsConfigDict

from tracker_daemon.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_MASK = "********"
_SIZE = re.compile(r"\s*(-?\d{1,18})\s*(?:([KMG])iB)?\s*")
_HOST = re.compile(r"(\[[^\[\]@]+\]|[^\[\]:@]*)(?::(\d{1,5}))?")
_ENCODE = "in user and password write @ : / ? # % as %40 %3A %2F %3F %23 %25"


def _must(be: Callable[[Any], object], words: str) -> AfterValidator:
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


def _masked(url: str) -> str:
    # Greedy up to the last @: should a URL be malformed, rather too much is hidden than too little.
    url = re.sub(r"(?s)(://[^:/?#@]*:).*@", rf"\1{_MASK}@", url)
    return re.sub(r"(?i)([?&](?:ssl)?password=)[^&#]*", rf"\1{_MASK}", url)


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
        if needs_host and not parts.hostname:
            raise ValueError("must name a host")
        return value

    return AfterValidator(check)


class Dsn(SecretStr):
    """A PostgreSQL URL whose text shows everything but the password."""

    def _display(self) -> str:
        return _masked(self.get_secret_value())


_Unset = BeforeValidator(lambda value: None if value == "" else value)
_Folded = BeforeValidator(lambda value: value.lower() if isinstance(value, str) else value)
_Split = BeforeValidator(
    lambda value: [*filter(None, map(str.strip, value.split(",")))] if isinstance(value, str) else value
)
_Server = Annotated[str, _url("nats", "tls", "ws", "wss", needs_host=True)]
_Dsn = Annotated[Dsn, _url("postgresql", "postgres", needs_host=False)]
_Size = Annotated[int, BeforeValidator(_bytes), Field(ge=1)]
_StreamName = Annotated[
    str, _must(re.compile(r"[^\s.*>/\\]{1,255}").fullmatch, r"a name without . * > / \ or white space")
]
_Subject = Annotated[
    str, _must(re.compile(r"[^\s.*>]+(\.[^\s.*>]+)*").fullmatch, "a subject without wildcards or white space")
]
_File = Annotated[Path | None, _Unset]
_Secret = Annotated[SecretStr | None, _Unset]


class _Group(BaseModel):
    model_config = {"frozen": True, "extra": "forbid", "hide_input_in_errors": True, "allow_inf_nan": False}


class NatsSettings(_Group):
    """How to reach NATS, and what to read there."""

    # Not in repr: a server's URL may carry a password or a token.
    servers: Annotated[tuple[_Server, ...], NoDecode, _Split, Field(min_length=1, repr=False)] = (
        "nats://127.0.0.1:4222",
    )
    mode: Annotated[Literal["jetstream", "core"], _Folded] = "jetstream"
    stream: _StreamName = "LLM"
    durable: _StreamName = "tracker-daemon"
    manage_stream: bool = True
    stream_max_age_seconds: Annotated[int, Field(ge=1, le=9_000_000_000)] = 7 * 86400
    stream_max_bytes: Annotated[_Size, Field(le=2**63 - 1)] = 8 << 30
    stream_replicas: Annotated[int, _must({1, 3, 5}.__contains__, "1, 3 or 5")] = 1
    max_ack_pending: Annotated[int, _must(lambda n: n == -1 or n >= 1, "-1 (no limit) or at least 1")] = 20000
    decisions_subject: _Subject = "llm.decisions"
    outcomes_subject: _Subject = "llm.outcomes"
    user: Annotated[str | None, _Unset] = None
    password: _Secret = None
    token: _Secret = None
    creds_file: _File = None
    nkey_seed_file: _File = None
    tls_ca_file: _File = None
    tls_cert_file: _File = None
    tls_key_file: _File = None
    max_payload_bytes: Annotated[_Size, Field(le=64 << 20)] = 4 << 20


class PostgresSettings(_Group):
    """How to reach PostgreSQL; `migrate_dsn` None means the same as `dsn`."""

    dsn: _Dsn = Dsn("postgresql://127.0.0.1:5432/tracker")
    migrate_dsn: Annotated[_Dsn | None, _Unset] = None
    writers: Annotated[int, Field(ge=1, le=32)] = 2
    statement_cache: bool = True


class BatchSettings(_Group):
    """When a batch is full, and how many payload bytes may be held anywhere."""

    max_rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_bytes: Annotated[_Size, Field(le=1 << 30)] = 8 << 20
    flush_interval_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.1
    max_buffered_bytes: Annotated[_Size, Field(le=1 << 40)] = 32 << 20


class ShutdownSettings(_Group):
    """How long a drain may take."""

    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0


class HttpSettings(_Group):
    """Where `/metrics`, `/healthz` and `/readyz` answer; port 0 takes a free one."""

    host: Annotated[str, _must(re.compile(r"\S+").fullmatch, "a host name or an address")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464


class LogSettings(_Group):
    """How log lines look, and from which level on they are written."""

    format: Annotated[Literal["auto", "console", "json"], _Folded] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], _Folded] = "info"


class MigrateSettings(_Group):
    """Whether `run` brings the schema up to date first."""

    on_start: bool = True


class EmbeddingSettings(_Group):
    """The length of every embedding."""

    dimensions: Annotated[int, Field(ge=1, le=16000)] = 1536


class Settings(BaseSettings):
    """All settings, valid and immutable; `load` makes it, `Settings()` alone is the defaults."""

    model_config = SettingsConfigDict(
        env_prefix="TRACKER_",
        env_nested_delimiter="_",
        env_nested_max_split=1,
        frozen=True,
        hide_input_in_errors=True,
    )

    nats: NatsSettings = NatsSettings()
    postgres: PostgresSettings = PostgresSettings()
    batch: BatchSettings = BatchSettings()
    shutdown: ShutdownSettings = ShutdownSettings()
    http: HttpSettings = HttpSettings()
    log: LogSettings = LogSettings()
    migrate: MigrateSettings = MigrateSettings()
    embedding: EmbeddingSettings = EmbeddingSettings()

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Leave the sources to `load`, which knows them apart and names every mistake."""
        return (sources["init_settings"],)

    def listing(self) -> list[tuple[str, str]]:
        """Pair the name of every setting with its value: secrets masked, empty where unset."""
        return [(name, _printable(attrgetter(key)(self))) for key, name in _NAMES.items()]


def _printable(value: Any) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case tuple():  # of server URLs, where a user without a password is a token
            return ",".join(re.sub(r"://[^:/@]+@", f"://{_MASK}@", _masked(url)) for url in value)
        case SecretStr() if not isinstance(value, Dsn):
            return _MASK
        case _:
            return str(value)


def _name(key: str) -> str:
    return key if key.startswith("TRACKER_") else f"TRACKER_{key.replace('.', '_').upper()}"


_NAMES = {
    f"{group}.{name}": _name(f"{group}.{name}")
    for group, settings in Settings()
    for name in type(settings).model_fields
}
_SECRETS = [_NAMES[key] for key in ("nats.password", "nats.token", "postgres.dsn", "postgres.migrate_dsn")]
# How a source may spell a setting, or the file of a secret.
_VARIABLES = {name: name for name in [*_NAMES.values(), *(f"{secret}_FILE" for secret in _SECRETS)]}
_DOTTED = _NAMES | {f"{key}_file": f"{name}_FILE" for key, name in _NAMES.items() if name in _SECRETS}
_WORDS = {
    "greater_than_equal": "must be at least {ge}, got {input}",
    "greater_than": "must be more than {gt}, got {input}",
    "less_than_equal": "must be at most {le}, got {input}",
    "literal_error": "must be {expected}, got {input!r:.60}",
    "int_parsing": "must be a whole number, got {input!r:.60}",
    "int_parsing_size": "must be a whole number, got {input!r:.60}",
    "float_parsing": "must be a number, got {input!r:.60}",
    "finite_number": "must be a finite number, got {input!r:.60}",
    "bool_parsing": "must be on or off (or true or false), got {input!r:.60}",
    "too_short": "must name at least one",
    "value_error": "{error}",
}


def load(
    config_file: Path | None = None,
    overrides: Mapping[str, str] = MappingProxyType({}),
    environ: Mapping[str, str] = os.environ,
) -> Settings:
    """Merge `overrides` (`batch.max_rows` style) over `environ` over `config_file` over the defaults.

    Raises SettingsError with every mistake at once; no sentence of it holds a secret.
    """
    mistakes: list[str] = []
    variables = {
        name: text
        for name, text in environ.items()
        if name.startswith("TRACKER_") and not name.startswith("TRACKER_TEST_")
    }
    given = {
        **_named(_toml(config_file, mistakes), _DOTTED, str(config_file), mistakes),
        **_named(
            _credentials(environ.get("CREDENTIALS_DIRECTORY"), mistakes),
            _VARIABLES,
            "$CREDENTIALS_DIRECTORY",
            mistakes,
        ),
        **_named(variables, _VARIABLES, "the environment", mistakes),
        **_named(overrides, _DOTTED, "the flags", mistakes),
    }
    settings = _validated(given, mistakes)
    unknown = {name for name, text in given.items() if text is None}
    mistakes += [
        sentence
        for sentence in _conflicts(settings)
        if unknown.isdisjoint(re.findall(r"TRACKER_\w+", sentence))
    ]
    if mistakes:
        raise SettingsError(mistakes)
    return settings


def _toml(path: Path | None, mistakes: list[str]) -> dict[str, str | None]:
    """Flatten a TOML file to dotted keys and texts; of one that cannot be read, every value is unknown."""
    if path is None:
        return {}
    try:
        return dict(_flattened(tomllib.loads(path.read_text("utf-8"))))
    except (OSError, ValueError) as error:
        mistakes.append(f"{path}: the config file cannot be read: {_reason(error)}")
        return dict.fromkeys(_NAMES)


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        match value:
            case dict():
                yield from _flattened(value, f"{prefix}{key}.")
                if not value and key not in Settings.model_fields:  # an empty section may be misspelt too
                    yield f"{prefix}{key}", ""
            case list():
                yield f"{prefix}{key}", ",".join(map(str, value))
            case bool():
                yield f"{prefix}{key}", str(value).lower()
            case _:
                yield f"{prefix}{key}", str(value)


def _credentials(directory: str | None, mistakes: list[str]) -> dict[str, str | None]:
    """Find the files named as a secret; of a directory that cannot be listed, every secret is unknown."""
    if not directory:
        return {}
    try:
        files = {file.name for file in Path(directory).iterdir()}
    except OSError as error:
        mistakes.append(f"CREDENTIALS_DIRECTORY: cannot be listed: {_reason(error)}")
        return dict.fromkeys(_SECRETS)
    return {
        f"{secret}_FILE": str(Path(directory, file))
        for secret in _SECRETS
        for file in (secret.lower(), secret)
        if file in files
    }


def _named(
    source: Mapping[str, str | None], spelling: Mapping[str, str], where: str, mistakes: list[str]
) -> dict[str, str | None]:
    """Give one source's texts by setting name, files of secrets read; None is a text nobody could read."""
    given: dict[str, str | None] = {}
    for key, text in source.items():
        name = spelling.get(key, "")
        secret = name.removesuffix("_FILE")
        if not name:
            close = difflib.get_close_matches(key, spelling, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            mistakes.append(f"{_name(key)}: no such setting (in {where}){hint}")
        elif name in _NAMES.values():
            given.setdefault(name, text)
        elif text and source.get(key[: -len("_file")]):
            mistakes.append(f"{secret}: give either it or {name}, not both (in {where})")
        elif text:
            try:
                given[secret] = _read_secret(Path(text))
            except (OSError, ValueError) as error:
                given[secret] = None
                mistakes.append(f"{name}: the secret's file (in {where}) cannot be read: {_reason(error)}")
    return given


def _read_secret(path: Path) -> str:
    if text := path.read_text("utf-8").rstrip("\r\n"):
        return text
    raise ValueError("it is empty")


def _reason(error: OSError | ValueError) -> str:
    return str(error.strerror if isinstance(error, OSError) else error)


def _validated(given: dict[str, str | None], mistakes: list[str]) -> Settings:
    """Make settings of all valid texts; the others become None in `given`, which leaves their defaults."""
    source = EnvSettingsSource(Settings)
    source.env_vars = {name.lower(): text for name, text in given.items() if text is not None}
    try:
        return Settings(**source())
    except ValidationError as error:
        for problem in error.errors():
            name = _NAMES[".".join(map(str, problem["loc"][:2]))]
            words = _WORDS.get(problem["type"], "{msg}").format(**problem, **problem.get("ctx", {}))
            entry = "".join(f"entry {index + 1} " for index in problem["loc"][2:] if isinstance(index, int))
            mistakes.append(f"{name}: {entry}{words}")
            given[name] = None
    return _validated(given, mistakes)


def _conflicts(settings: Settings) -> Iterator[str]:
    """Yield a sentence for what does not fit together; it names every setting that it is about."""
    nats, batch = settings.nats, settings.batch
    if batch.max_bytes > batch.max_buffered_bytes:
        most = f"TRACKER_BATCH_MAX_BUFFERED_BYTES ({batch.max_buffered_bytes})"
        yield f"TRACKER_BATCH_MAX_BYTES: must be at most {most}, got {batch.max_bytes}"
    if batch.max_buffered_bytes < 2 * nats.max_payload_bytes:
        least = f"twice TRACKER_NATS_MAX_PAYLOAD_BYTES ({nats.max_payload_bytes})"
        yield f"TRACKER_BATCH_MAX_BUFFERED_BYTES: must be at least {least}, got {batch.max_buffered_bytes}"
    if nats.decisions_subject == nats.outcomes_subject:
        yield "TRACKER_NATS_OUTCOMES_SUBJECT: must differ from TRACKER_NATS_DECISIONS_SUBJECT"
    if len({url.startswith("ws") for url in nats.servers}) > 1:
        yield "TRACKER_NATS_SERVERS: must be all ws:// and wss://, or all nats:// and tls://"
    yield from _login_conflicts(nats)


def _login_conflicts(nats: NatsSettings) -> Iterator[str]:
    there = [name for name, value in nats if value is not None]
    for pair in (("user", "password"), ("tls_cert_file", "tls_key_file")):
        for one, other in (pair, pair[::-1]):
            if one in there and other not in there:
                yield f"{_NAMES[f'nats.{one}']}: needs {_NAMES[f'nats.{other}']} too"
    logins = [
        _NAMES[f"nats.{name}"] for name in ("user", "token", "creds_file", "nkey_seed_file") if name in there
    ]
    if len(logins) > 1:
        yield f"{logins[0]}: cannot go together with {' and '.join(logins[1:])}; give one way to log in"
    for name in filter(re.compile(".+_file").fullmatch, there):
        try:
            getattr(nats, name).open("rb").close()
        except (OSError, ValueError) as error:
            # No text quotes the path: it may be a seed or a token, given under the wrong name.
            yield f"{_NAMES[f'nats.{name}']}: the file that it names cannot be read: {_reason(error)}"
