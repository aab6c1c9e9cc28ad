"""Every setting: its name, its default, its bounds."""

from __future__ import annotations

import re
from operator import attrgetter
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, Field
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from tracker_daemon.config.kinds import (
    Dsn,
    DsnText,
    Endpoint,
    File,
    Folded,
    Patterns,
    Secret,
    Server,
    Size,
    Split,
    StreamName,
    Subject,
    Unset,
    must,
    printable,
)
from tracker_daemon.redaction import Preset, Redactor

LOCAL_DIMENSIONS: Final = 256
"""Of the one model that the provider `local` has."""


class _Group(BaseModel):
    model_config = {"frozen": True, "extra": "forbid", "hide_input_in_errors": True, "allow_inf_nan": False}


class NatsSettings(_Group):
    """How to reach NATS, and what to read there."""

    # Not in repr: a server's URL may carry a password or a token.
    servers: Annotated[tuple[Server, ...], NoDecode, Split, Field(min_length=1, repr=False)] = (
        "nats://127.0.0.1:4222",
    )
    mode: Annotated[Literal["jetstream", "core"], Folded] = "jetstream"
    stream: StreamName = "LLM"
    durable: StreamName = "tracker-daemon"
    manage_stream: bool = True
    stream_max_age_seconds: Annotated[int, Field(ge=1, le=9_000_000_000)] = 7 * 86400
    stream_max_bytes: Annotated[Size, Field(le=2**63 - 1)] = 8 << 30
    stream_replicas: Annotated[int, must({1, 3, 5}.__contains__, "1, 3 or 5")] = 1
    max_ack_pending: Annotated[int, must(lambda n: n == -1 or n >= 1, "-1 (no limit) or at least 1")] = 20000
    decisions_subject: Subject = "llm.decisions"
    outcomes_subject: Subject = "llm.outcomes"
    user: Annotated[str | None, Unset] = None
    password: Secret = None
    token: Secret = None
    creds_file: File = None
    nkey_seed_file: File = None
    tls_ca_file: File = None
    tls_cert_file: File = None
    tls_key_file: File = None
    max_payload_bytes: Annotated[Size, Field(le=64 << 20)] = 4 << 20


class PostgresSettings(_Group):
    """How to reach PostgreSQL; `migrate_dsn` None means the same as `dsn`."""

    dsn: DsnText = Dsn("postgresql://127.0.0.1:5432/tracker")
    migrate_dsn: Annotated[DsnText | None, Unset] = None
    writers: Annotated[int, Field(ge=1, le=32)] = 2
    statement_cache: bool = True


class BatchSettings(_Group):
    """When a batch is full, and how many payload bytes may be held anywhere."""

    max_rows: Annotated[int, Field(ge=1, le=100_000)] = 1000
    max_bytes: Annotated[Size, Field(le=1 << 30)] = 8 << 20
    flush_interval_seconds: Annotated[float, Field(ge=0, le=3600)] = 0.1
    max_buffered_bytes: Annotated[Size, Field(le=1 << 40)] = 32 << 20


class ShutdownSettings(_Group):
    """How long a drain may take."""

    timeout_seconds: Annotated[float, Field(gt=0, le=3600)] = 20.0


class HttpSettings(_Group):
    """Where `/metrics`, `/healthz` and `/readyz` answer; port 0 takes a free one."""

    host: Annotated[str, must(re.compile(r"\S+").fullmatch, "a host name or an address")] = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 9464


class LogSettings(_Group):
    """How log lines look, and from which level on they are written."""

    format: Annotated[Literal["auto", "console", "json"], Folded] = "auto"
    level: Annotated[Literal["debug", "info", "warning", "error", "critical"], Folded] = "info"


class MigrateSettings(_Group):
    """Whether `run` brings the schema up to date first."""

    on_start: bool = True


class EmbeddingSettings(_Group):
    """The length of every embedding, and who makes those that payloads do not bring, and how."""

    dimensions: Annotated[int, Field(ge=1, le=16000)] = 1536
    provider: Annotated[Literal["none", "local", "openai"], Folded] = "none"
    url: Endpoint = "https://api.openai.com/v1"
    model: Annotated[
        str | None, must(lambda name: name is None or len(name) <= 100, "at most 100 characters"), Unset
    ] = None
    key: Secret = None
    batch_texts: Annotated[int, Field(ge=1, le=2048)] = 32
    batch_bytes: Annotated[Size, Field(le=64 << 20)] = 256 << 10
    max_characters: Annotated[int, Field(ge=1, le=1_000_000)] = 8000
    requests_per_minute: Annotated[Annotated[float, Field(gt=0, le=1_000_000)] | None, Unset] = None
    timeout_seconds: Annotated[float, Field(gt=0, le=600)] = 30.0


class AlertSettings(_Group):
    """Below which rate of success an alert is published, and where; None: no rate is too low."""

    success_floor: Annotated[Annotated[float, Field(gt=0, lt=1)] | None, Unset] = None
    window_days: Annotated[float, Field(gt=0, le=36500)] = 30.0
    subject: Subject = "llm.alerts"


class QuerySettings(_Group):
    """Which questions are answered over NATS, and with how much of PostgreSQL.

    `dsn` None means PostgreSQL's; `maturity_seconds` holds wherever a question does not give its own.
    """

    enabled: bool = True
    subject: Subject = "llm.query"
    dsn: Annotated[DsnText | None, Unset] = None
    connections: Annotated[int, Field(ge=1, le=32)] = 4
    # Below the driver's own limit for a command, which takes the connection with it.
    timeout_seconds: Annotated[float, Field(ge=0.1, le=20)] = 10.0
    maturity_seconds: Annotated[float, Field(ge=0, le=10 * 365 * 86400)] = 0.0


class RedactSettings(_Group):
    """What is cut out of messages and log lines before they are written; nothing unless told to."""

    presets: Annotated[tuple[Annotated[Preset, Folded], ...], NoDecode, Split] = ()
    patterns: Annotated[Patterns, NoDecode] = ()

    @property
    def redactor(self) -> Redactor | None:
        """What does it, made anew; None: nothing is to be cut."""
        return Redactor(self.presets, self.patterns) if self.presets or self.patterns else None


class RetentionSettings(_Group):
    """How old rows may become, None: as old as they like; `unreplayed_dead_letters`: those grow old too."""

    older_than_days: Annotated[Annotated[int, Field(ge=1, le=36_500)] | None, Unset] = None
    unreplayed_dead_letters: bool = False


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
    alerts: AlertSettings = AlertSettings()
    redact: RedactSettings = RedactSettings()
    retention: RetentionSettings = RetentionSettings()
    query: QuerySettings = QuerySettings()

    @classmethod
    def settings_customise_sources(cls, *_: Any, **sources: Any) -> tuple[Any, ...]:
        """Leave the sources to `load`, which knows them apart and names every mistake."""
        return (sources["init_settings"],)

    def listing(self) -> list[tuple[str, str]]:
        """Pair the name of every setting with its value: secrets masked, empty where unset."""
        return [(name, printable(attrgetter(key)(self))) for key, name in NAMES.items()]


def name_of(key: str) -> str:
    """The environment's name of a dotted key."""
    return key if key.startswith("TRACKER_") else f"TRACKER_{key.replace('.', '_').upper()}"


NAMES = {
    f"{group}.{name}": name_of(f"{group}.{name}")
    for group, settings in Settings()
    for name in type(settings).model_fields
}
