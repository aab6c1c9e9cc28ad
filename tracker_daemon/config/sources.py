"""Where values come from: flags, environment, files, credentials; every mistake is named at once."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from importlib.util import find_spec
from operator import attrgetter
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from pydantic import ValidationError
from pydantic_settings import EnvSettingsSource

from tracker_daemon.config.kinds import Dsn
from tracker_daemon.config.settings import (
    LOCAL_DIMENSIONS,
    NAMES,
    EmbeddingSettings,
    NatsSettings,
    Settings,
    name_of,
)
from tracker_daemon.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_SECRETS = [
    NAMES[key]
    for key in (
        "nats.password",
        "nats.token",
        "postgres.dsn",
        "postgres.migrate_dsn",
        "embedding.key",
        "query.dsn",
    )
]
# How a source may spell a setting, or the file of a secret.
_VARIABLES = {name: name for name in [*NAMES.values(), *(f"{secret}_FILE" for secret in _SECRETS)]}
_DOTTED = NAMES | {f"{key}_file": f"{name}_FILE" for key, name in NAMES.items() if name in _SECRETS}
_SSL_MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
_SSL_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")
_WORDS = {
    "greater_than_equal": "must be at least {ge}, got {input}",
    "greater_than": "must be more than {gt}, got {input}",
    "less_than": "must be less than {lt}, got {input}",
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
        return dict.fromkeys(NAMES)


def _flattened(table: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in table.items():
        match value:
            case dict():
                yield from _flattened(value, f"{prefix}{key}.")
                if not value and key not in Settings.model_fields:  # an empty section may be misspelt too
                    yield f"{prefix}{key}", ""
            case list():
                yield f"{prefix}{key}", "\n".join(map(str, value))
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
        if not re.fullmatch(r"[\w.]+", key):
            mistakes.append(
                f"{where}: something there is not named like batch.max_rows; "
                "it may be a secret, so it is not shown"
            )
        elif not name:
            close = difflib.get_close_matches(key, spelling, n=1, cutoff=0.7)
            hint = f"; did you mean {close[0]}?" if close else ""
            mistakes.append(f"{name_of(key)}: no such setting (in {where}){hint}")
        elif name in NAMES.values():
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
            name = NAMES[".".join(map(str, problem["loc"][:2]))]
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
    if settings.alerts.subject in {nats.decisions_subject, nats.outcomes_subject}:
        yield (
            "TRACKER_ALERTS_SUBJECT: must differ from TRACKER_NATS_DECISIONS_SUBJECT "
            "and TRACKER_NATS_OUTCOMES_SUBJECT"
        )
    if len({url.startswith("ws") for url in nats.servers}) > 1:
        yield "TRACKER_NATS_SERVERS: must be all ws:// and wss://, or all nats:// and tls://"
    if settings.retention.unreplayed_dead_letters and not settings.retention.older_than_days:
        yield "TRACKER_RETENTION_UNREPLAYED_DEAD_LETTERS: needs TRACKER_RETENTION_OLDER_THAN_DAYS too"
    yield from _embedding_conflicts(settings.embedding)
    yield from _login_conflicts(nats)
    yield from _tls_conflicts(settings)


def _embedding_conflicts(embedding: EmbeddingSettings) -> Iterator[str]:
    if embedding.provider == "local" and embedding.dimensions != LOCAL_DIMENSIONS:
        yield (
            f"TRACKER_EMBEDDING_DIMENSIONS: must be {LOCAL_DIMENSIONS} for TRACKER_EMBEDDING_PROVIDER local, "
            f"got {embedding.dimensions}; a database keeps the dimension that it was migrated with: where "
            "that is another, take openai and a model of that dimension, or begin a new database"
        )
    if embedding.provider == "local" and find_spec("wordllama") is None:
        yield "TRACKER_EMBEDDING_PROVIDER: local needs an extra: pip install 'tracker-daemon[embeddings]'"
    if embedding.provider != "openai" and embedding.model:
        yield "TRACKER_EMBEDDING_MODEL: goes with openai as TRACKER_EMBEDDING_PROVIDER alone"
    if embedding.provider == "openai" and not embedding.model:
        yield "TRACKER_EMBEDDING_MODEL: must be given where TRACKER_EMBEDDING_PROVIDER is openai"
    if embedding.key and not re.fullmatch("[!-~]+", embedding.key.get_secret_value()):
        yield "TRACKER_EMBEDDING_KEY: must be visible ASCII characters in one line"


def _login_conflicts(nats: NatsSettings) -> Iterator[str]:
    there = [name for name, value in nats if value is not None]
    for pair in (("user", "password"), ("tls_cert_file", "tls_key_file")):
        for one, other in (pair, pair[::-1]):
            if one in there and other not in there:
                yield f"{NAMES[f'nats.{one}']}: needs {NAMES[f'nats.{other}']} too"
    logins = [
        NAMES[f"nats.{name}"] for name in ("user", "token", "creds_file", "nkey_seed_file") if name in there
    ]
    if len(logins) > 1:
        yield f"{logins[0]}: cannot go together with {' and '.join(logins[1:])}; give one way to log in"
    for name in filter(re.compile(".+_file").fullmatch, there):
        yield from _unreadable(NAMES[f"nats.{name}"], "it", getattr(nats, name))


def _tls_conflicts(settings: Settings) -> Iterator[str]:
    for key, name in NAMES.items():
        if isinstance(dsn := attrgetter(key)(settings), Dsn):
            query = dict(parse_qsl(urlsplit(dsn.get_secret_value()).query))
            if query.get("sslmode", "prefer") not in _SSL_MODES:
                yield f"{name}: its sslmode must be one of {', '.join(_SSL_MODES)}"
            for part in sorted(query.keys() & _SSL_FILES):
                yield from _unreadable(name, f"its {part}", Path(query[part]))


def _unreadable(name: str, part: str, path: Path) -> Iterator[str]:
    try:
        path.open("rb").close()
    except (OSError, ValueError) as error:
        # No text quotes the path: it may be a seed or a token, given under the wrong name.
        yield f"{name}: the file that {part} names cannot be read: {_reason(error)}"
