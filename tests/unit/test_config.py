"""Settings: where values come from, what is refused and in which words, and that no secret shows."""

from __future__ import annotations

import os
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.config import BatchSettings, PostgresSettings, Settings, load
from tracker_daemon.errors import SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


ENCODE = "in user and password write @ : / ? # % as %40 %3A %2F %3F %23 %25"
PAYLOAD = "TRACKER_NATS_MAX_PAYLOAD_BYTES"
LINES = "^ and $ are the ends of a line"
LOGINS = "TRACKER_NATS_TOKEN and TRACKER_NATS_CREDS_FILE"


def mistakes(
    environ: Mapping[str, str] | None = None,
    config_file: Path | None = None,
    overrides: Mapping[str, str] | None = None,
) -> list[str]:
    with pytest.raises(SettingsError) as raised:
        load(config_file, overrides or {}, environ or {})
    return raised.value.mistakes


def names(sentences: list[str]) -> set[str]:
    return {sentence.partition(":")[0] for sentence in sentences}


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    return tmp_path / "tracker.toml"


# Values and their sources


def test_nothing_given_leaves_the_defaults_of_the_contract() -> None:
    assert dict(load(environ={}).listing()) == {
        "TRACKER_NATS_SERVERS": "nats://127.0.0.1:4222",
        "TRACKER_NATS_MODE": "jetstream",
        "TRACKER_NATS_STREAM": "LLM",
        "TRACKER_NATS_DURABLE": "tracker-daemon",
        "TRACKER_NATS_MANAGE_STREAM": "true",
        "TRACKER_NATS_STREAM_MAX_AGE_SECONDS": str(7 * 24 * 3600),
        "TRACKER_NATS_STREAM_MAX_BYTES": str(8 * 1024**3),
        "TRACKER_NATS_STREAM_REPLICAS": "1",
        "TRACKER_NATS_MAX_ACK_PENDING": "20000",
        "TRACKER_NATS_DECISIONS_SUBJECT": "llm.decisions",
        "TRACKER_NATS_OUTCOMES_SUBJECT": "llm.outcomes",
        "TRACKER_NATS_USER": "",
        "TRACKER_NATS_PASSWORD": "",
        "TRACKER_NATS_TOKEN": "",
        "TRACKER_NATS_CREDS_FILE": "",
        "TRACKER_NATS_NKEY_SEED_FILE": "",
        "TRACKER_NATS_TLS_CA_FILE": "",
        "TRACKER_NATS_TLS_CERT_FILE": "",
        "TRACKER_NATS_TLS_KEY_FILE": "",
        "TRACKER_NATS_MAX_PAYLOAD_BYTES": str(4 * 1024**2),
        "TRACKER_POSTGRES_DSN": "postgresql://127.0.0.1:5432/tracker",
        "TRACKER_POSTGRES_MIGRATE_DSN": "",
        "TRACKER_POSTGRES_WRITERS": "2",
        "TRACKER_POSTGRES_STATEMENT_CACHE": "true",
        "TRACKER_BATCH_MAX_ROWS": "1000",
        "TRACKER_BATCH_MAX_BYTES": str(8 * 1024**2),
        "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "0.1",
        "TRACKER_BATCH_MAX_BUFFERED_BYTES": str(32 * 1024**2),
        "TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "20.0",
        "TRACKER_HTTP_HOST": "127.0.0.1",
        "TRACKER_HTTP_PORT": "9464",
        "TRACKER_LOG_FORMAT": "auto",
        "TRACKER_LOG_LEVEL": "info",
        "TRACKER_MIGRATE_ON_START": "true",
        "TRACKER_EMBEDDING_DIMENSIONS": "1536",
        "TRACKER_EMBEDDING_PROVIDER": "none",
        "TRACKER_EMBEDDING_URL": "https://api.openai.com/v1",
        "TRACKER_EMBEDDING_MODEL": "",
        "TRACKER_EMBEDDING_KEY": "",
        "TRACKER_EMBEDDING_BATCH_TEXTS": "32",
        "TRACKER_EMBEDDING_BATCH_BYTES": str(256 * 1024),
        "TRACKER_EMBEDDING_MAX_CHARACTERS": "8000",
        "TRACKER_EMBEDDING_REQUESTS_PER_MINUTE": "",
        "TRACKER_EMBEDDING_TIMEOUT_SECONDS": "30.0",
        "TRACKER_ALERTS_SUCCESS_FLOOR": "",
        "TRACKER_ALERTS_WINDOW_DAYS": "30.0",
        "TRACKER_ALERTS_SUBJECT": "llm.alerts",
        "TRACKER_REDACT_PRESETS": "",
        "TRACKER_REDACT_PATTERNS": "",
        "TRACKER_RETENTION_OLDER_THAN_DAYS": "",
        "TRACKER_RETENTION_UNREPLAYED_DEAD_LETTERS": "false",
        "TRACKER_QUERY_ENABLED": "true",
        "TRACKER_QUERY_SUBJECT": "llm.query",
        "TRACKER_QUERY_DSN": "",
        "TRACKER_QUERY_CONNECTIONS": "4",
        "TRACKER_QUERY_TIMEOUT_SECONDS": "10.0",
        "TRACKER_QUERY_MATURITY_SECONDS": "0.0",
    }


def test_flags_win_over_environment_over_file_over_defaults(toml: Path) -> None:
    toml.write_text("[batch]\nmax_rows = 1\nmax_bytes = 1\nflush_interval_seconds = 1\n")
    settings = load(
        toml,
        {"batch.max_rows": "3"},
        {"TRACKER_BATCH_MAX_ROWS": "2", "TRACKER_BATCH_MAX_BYTES": "2"},
    )
    assert settings.batch == BatchSettings(max_rows=3, max_bytes=2, flush_interval_seconds=1)


def test_the_process_environment_is_read_when_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_BATCH_MAX_ROWS", "17")
    assert load().batch.max_rows == 17


def test_only_the_given_environment_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRACKER_BATCH_MAX_ROWS", "17")
    assert load(environ={}).batch.max_rows == 1000
    assert Settings().batch.max_rows == 1000


def test_toml_takes_native_types(toml: Path) -> None:
    toml.write_text(
        '[nats]\nservers = ["nats://a:4222", "tls://b"]\nmanage_stream = false\n[batch]\nmax_bytes = "2MiB"\n'
    )
    settings = load(toml, environ={})
    assert settings.nats.servers == ("nats://a:4222", "tls://b")
    assert settings.nats.manage_stream is False
    assert settings.batch.max_bytes == 2 << 20


def test_servers_are_a_comma_separated_list() -> None:
    settings = load(environ={"TRACKER_NATS_SERVERS": "nats://a:4222, tls://[::1]:4333 ,"})
    assert settings.nats.servers == ("nats://a:4222", "tls://[::1]:4333")


@pytest.mark.parametrize(
    ("text", "value"), [("on", True), ("off", False), ("true", True), ("FALSE", False), ("1", True)]
)
def test_booleans_read_as_people_write_them(text: str, value: bool) -> None:
    assert load(environ={"TRACKER_POSTGRES_STATEMENT_CACHE": text}).postgres.statement_cache is value


def test_an_empty_text_unsets_what_may_be_unset(toml: Path) -> None:
    toml.write_text('[nats]\ntoken = "t"\n')
    settings = load(toml, environ={"TRACKER_NATS_TOKEN": "", "TRACKER_NATS_TLS_CA_FILE": ""})
    assert settings.nats.token is None
    assert settings.nats.tls_ca_file is None


def test_variables_of_the_test_suite_and_of_others_are_left_alone() -> None:
    assert load(environ={"TRACKER_TEST_SEED": "1", "TRACKERS": "x", "PATH": "/bin"}) == Settings()


@given(st.integers(1, 1 << 10), st.sampled_from(["KiB", "MiB"]), st.sampled_from(["", " ", "  "]))
def test_sizes_with_units_are_powers_of_1024(number: int, unit: str, space: str) -> None:
    size = number * {"KiB": 1024, "MiB": 1024**2}[unit]
    for text in (f"{number}{space}{unit}", str(size)):
        overrides = {"batch.max_bytes": text, "batch.max_buffered_bytes": "2GiB"}
        assert load(None, overrides, {}).batch.max_bytes == size


@given(st.text(st.characters(codec="utf-8"), min_size=1))
def test_any_other_text_as_a_size_is_refused_in_words(text: str) -> None:
    (found,) = mistakes(overrides={"batch.max_bytes": f"x{text}"})
    assert found.startswith("TRACKER_BATCH_MAX_BYTES: must be a number of bytes, KiB, MiB or GiB")


# Redaction


def test_patterns_are_one_a_line_and_may_hold_commas(toml: Path) -> None:
    toml.write_text(
        '[redact]\npresets = ["keys", "EMAIL"]\npatterns = ["E-[0-9]{3,4}", "(?P<desk>desk \\\\d+)"]\n'
    )
    given = {
        "TRACKER_REDACT_PRESETS": "keys, Email",
        "TRACKER_REDACT_PATTERNS": "E-[0-9]{3,4}\n\n(?P<desk>desk \\d+)\n",
    }
    for settings in (load(toml, environ={}).redact, load(environ=given).redact):
        assert settings.presets == ("keys", "email")
        assert settings.patterns == ("E-[0-9]{3,4}", r"(?P<desk>desk \d+)")
        assert settings.redactor is not None
        text = settings.redactor.redact_text("E-123,4 of desk 7: me@x.de")
        assert text == "[redacted:pattern],4 of [redacted:desk]: [redacted:email]"


def test_patterns_are_listed_as_they_are_read_and_without_white_space_around() -> None:
    """A comma may be a part of one, and so may what would be a password in a URL."""
    patterns = "  a{1,2}\t\r\nhttps://me:(?P<it>.+)@h "
    settings = load(environ={"TRACKER_REDACT_PATTERNS": patterns})
    shown = dict(settings.listing())["TRACKER_REDACT_PATTERNS"]
    assert shown == "a{1,2}\nhttps://me:(?P<it>.+)@h"
    assert load(environ={"TRACKER_REDACT_PATTERNS": shown}) == settings


def test_nothing_is_redacted_unless_told_to() -> None:
    assert (
        load(environ={"TRACKER_REDACT_PRESETS": "", "TRACKER_REDACT_PATTERNS": " \n"}).redact.redactor is None
    )


def test_what_cannot_be_redacted_by_is_named_entry_by_entry() -> None:
    assert mistakes({"TRACKER_REDACT_PRESETS": "keys,key", "TRACKER_REDACT_PATTERNS": "(a\nb\nx*\n\\Ac"}) == [
        "TRACKER_REDACT_PRESETS: entry 2 must be 'keys', 'tokens', 'email' or 'cards', got 'key'",
        "TRACKER_REDACT_PATTERNS: entry 1 must be what RE2 can compile: missing ): (a",
        "TRACKER_REDACT_PATTERNS: entry 3 must not match the empty text, as 'x*' does",
        rf"TRACKER_REDACT_PATTERNS: entry 4 must do without \A, \z, \C and (?-m): {LINES}",
    ]
    many = "\n".join(rf"\pL{{{length}}}" for length in range(60, 120))
    assert mistakes({"TRACKER_REDACT_PATTERNS": many}) == [
        "TRACKER_REDACT_PATTERNS: must be what RE2 can compile: pattern too large - compile failed"
    ]


# Secrets


def test_secrets_come_from_files_without_their_trailing_newline(tmp_path: Path) -> None:
    files = {
        "dsn": "postgresql://u:p@h/db\n",
        "pw": " p w \r\n",
        "m": "postgres:///x",
        "q": "postgresql://r:p@h/db\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    settings = load(
        environ={
            "TRACKER_POSTGRES_DSN_FILE": str(tmp_path / "dsn"),
            "TRACKER_POSTGRES_MIGRATE_DSN_FILE": str(tmp_path / "m"),
            "TRACKER_NATS_USER": "me",
            "TRACKER_NATS_PASSWORD_FILE": str(tmp_path / "pw"),
            "TRACKER_QUERY_DSN_FILE": str(tmp_path / "q"),
        }
    )
    assert settings.postgres.dsn.get_secret_value() == "postgresql://u:p@h/db"
    assert settings.query.dsn is not None
    assert settings.query.dsn.get_secret_value() == "postgresql://r:p@h/db"
    assert settings.postgres.migrate_dsn is not None
    assert settings.postgres.migrate_dsn.get_secret_value() == "postgres:///x"
    assert settings.nats.password is not None
    assert settings.nats.password.get_secret_value() == " p w "


def test_credentials_directory_stands_between_environment_and_file(tmp_path: Path, toml: Path) -> None:
    toml.write_text(
        '[nats]\ntoken = "toml"\n[postgres]\ndsn = "postgresql:///toml"\nmigrate_dsn = "postgres:///toml"\n'
    )
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "TRACKER_NATS_TOKEN").write_text("credential\n")
    (credentials / "tracker_postgres_dsn").write_text("postgresql:///credential\n")
    (credentials / "something_else").write_text("x")
    environ = {"CREDENTIALS_DIRECTORY": str(credentials)}

    def secrets(more: dict[str, str]) -> tuple[str, ...]:
        settings = load(toml, environ=environ | more)
        values = settings.nats.token, settings.postgres.dsn, settings.postgres.migrate_dsn
        return tuple(value.get_secret_value() for value in values if value)

    assert secrets({}) == ("credential", "postgresql:///credential", "postgres:///toml")
    assert secrets({"TRACKER_NATS_TOKEN": "env"}) == ("env", "postgresql:///credential", "postgres:///toml")


def test_toml_may_name_a_secret_file(tmp_path: Path, toml: Path) -> None:
    (tmp_path / "token").write_text("t\n")
    toml.write_text(f'[nats]\ntoken_file = "{tmp_path / "token"}"\n')
    token = load(toml, environ={}).nats.token
    assert token is not None
    assert token.get_secret_value() == "t"


def test_a_secret_and_its_file_together_are_a_mistake(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("t")
    found = mistakes({"TRACKER_NATS_TOKEN": "s3cret", "TRACKER_NATS_TOKEN_FILE": str(tmp_path / "token")})
    assert found == [
        "TRACKER_NATS_TOKEN: give either it or TRACKER_NATS_TOKEN_FILE, not both (in the environment)"
    ]


@pytest.mark.parametrize(
    ("content", "reason"), [(None, "No such file"), (b"\n", "empty"), (b"\xff", "decode")]
)
def test_a_secret_file_that_gives_nothing_is_the_one_mistake(
    tmp_path: Path, content: bytes | None, reason: str
) -> None:
    """No second sentence complains that the password is missing next to the user."""
    path = tmp_path / "s3cret-by-mistake"
    if content is not None:
        path.write_bytes(content)
    (found,) = mistakes({"TRACKER_NATS_USER": "me", "TRACKER_NATS_PASSWORD_FILE": str(path)})
    assert found.startswith("TRACKER_NATS_PASSWORD_FILE: ")
    assert reason in found
    assert "s3cret" not in found


def test_a_credentials_directory_that_cannot_be_listed_is_a_mistake(tmp_path: Path) -> None:
    (found,) = mistakes({"CREDENTIALS_DIRECTORY": str(tmp_path / "away"), "TRACKER_NATS_USER": "me"})
    assert found == "CREDENTIALS_DIRECTORY: cannot be listed: No such file or directory"


def test_secrets_are_masked_wherever_settings_are_printed() -> None:
    settings = load(
        environ={
            "TRACKER_NATS_SERVERS": "nats://me:s3cret@a:4222,nats://s3cret@b:4222",
            "TRACKER_NATS_USER": "me",
            "TRACKER_NATS_PASSWORD": "s3cret",
            "TRACKER_POSTGRES_DSN": "postgresql://me:s3cret@[::1]:2/db?sslmode=require&sslpassword=s3cret",
            "TRACKER_POSTGRES_MIGRATE_DSN": "postgresql://h/db?user=me&pass%77ord=s3cret&connect_timeout=3",
        }
    )
    listing = dict(settings.listing())
    assert listing["TRACKER_NATS_SERVERS"] == "nats://me:********@a:4222,nats://********@b:4222"
    assert listing["TRACKER_NATS_PASSWORD"] == "********"
    masked = "postgresql://me:********@[::1]:2/db?sslmode=require&sslpassword=********"
    assert listing["TRACKER_POSTGRES_DSN"] == masked
    masked = "postgresql://h/db?user=me&pass%77ord=********&connect_timeout=3"
    assert listing["TRACKER_POSTGRES_MIGRATE_DSN"] == masked
    for shown in (settings, settings.nats, settings.postgres, settings.postgres.dsn):
        assert "s3cret" not in f"{shown!r} {shown}"


@given(before=st.text("aZ19:/?#@[]%,&=; \n", max_size=6), after=st.text("aZ19:/?#@[]%,&=; \n", max_size=6))
def test_no_shape_of_password_shows_in_a_mistake_or_a_listing(before: str, after: str) -> None:
    """Unencoded passwords break URLs in many ways; none of them may print a part of the password."""
    password = f"{before}s3cret{after}"
    for name, url in (
        ("TRACKER_POSTGRES_DSN", f"postgresql://me:{password}@h:5432/db"),
        ("TRACKER_NATS_SERVERS", f"nats://me:{password}@h:4222"),
    ):
        try:
            settings = load(environ={name: url})
            shown = f"{settings.listing()} {settings!r} {settings}"
        except SettingsError as error:
            shown = "".join(traceback.format_exception(error))
        assert "s3cret" not in shown


def test_direct_construction_tells_no_secret_either() -> None:
    with pytest.raises(ValueError, match="port") as raised:
        PostgresSettings.model_validate({"dsn": "postgresql://me@h:s3cret/db"})
    assert "s3cret" not in str(raised.value)


def test_a_secret_that_is_given_without_a_name_is_not_taken_for_one(toml: Path) -> None:
    toml.write_text('"nats://me:s3cret@h" = 1\n')
    found = mistakes({}, toml, {"postgresql://me:s3cret@h/db?sslmode": "require"})
    words = "something there is not named like batch.max_rows; it may be a secret, so it is not shown"
    assert found == [f"{toml}: {words}", f"the flags: {words}"]


# Mistakes


def test_every_mistake_is_told_at_once(tmp_path: Path, toml: Path) -> None:
    toml.write_text("[batch]\nmax_rows = 0\nmax_row = 5\n[bach]\n[nats]\nstream_replicas = 2\n")
    found = mistakes(
        {
            "TRACKER_NATS_SERVERS": "http://h,nats://h:s3cret",
            "TRACKER_NATS_MODE": "kafka",
            "TRACKER_NATS_STREAM": "a.b",
            "TRACKER_NATS_DURABLE": "a b",
            "TRACKER_NATS_MANAGE_STREAM": "maybe",
            "TRACKER_NATS_MAX_ACK_PENDING": "0",
            "TRACKER_NATS_DECISIONS_SUBJECT": "llm.x",
            "TRACKER_NATS_OUTCOMES_SUBJECT": "llm.x",
            "TRACKER_NATS_USER": "me",
            "TRACKER_NATS_TOKEN": "s3cret",
            "TRACKER_NATS_TLS_KEY_FILE": str(toml),
            "TRACKER_NATS_CREDS_FILE": str(tmp_path / "s3cret"),
            "TRACKER_NATS_MAX_PAYLOAD_BYTES": "20MiB",
            "TRACKER_POSTGRES_DSN": "mysql://me:s3cret@h/db",
            "TRACKER_POSTGRES_WRITERS": "many",
            "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS": "inf",
            "TRACKER_BATCH_MAX_BYTES": "64MiB",
            "TRACKER_SHUTDOWN_TIMEOUT_SECONDS": "0",
            "TRACKER_HTTP_PORT": "65536",
            "TRACKER_LOG_LEVEL": "loud",
            "TRACKER_EMBEDDING_DIMENSIONS": "16001",
            "TRACKER_ALERTS_SUCCESS_FLOOR": "1",
            "TRACKER_NATS_SERVER": "x",
        },
        toml,
        {"batch.rows": "1"},
    )
    assert found == [
        f"TRACKER_BATCH_MAX_ROW: no such setting (in {toml}); did you mean batch.max_rows?",
        f"TRACKER_BACH: no such setting (in {toml})",
        "TRACKER_NATS_SERVER: no such setting (in the environment); did you mean TRACKER_NATS_SERVERS?",
        "TRACKER_BATCH_ROWS: no such setting (in the flags); did you mean batch.max_rows?",
        "TRACKER_NATS_SERVERS: entry 1 must start with nats:// or tls:// or ws:// or wss://",
        f"TRACKER_NATS_SERVERS: entry 2 must have as its port a number of at most 65535; {ENCODE}",
        "TRACKER_NATS_MODE: must be 'jetstream' or 'core', got 'kafka'",
        r"TRACKER_NATS_STREAM: must be a name without . * > / \ or white space, got 'a.b'",
        r"TRACKER_NATS_DURABLE: must be a name without . * > / \ or white space, got 'a b'",
        "TRACKER_NATS_MANAGE_STREAM: must be on or off (or true or false), got 'maybe'",
        "TRACKER_NATS_STREAM_REPLICAS: must be 1, 3 or 5, got 2",
        "TRACKER_NATS_MAX_ACK_PENDING: must be -1 (no limit) or at least 1, got 0",
        "TRACKER_POSTGRES_DSN: must start with postgresql:// or postgres://",
        "TRACKER_POSTGRES_WRITERS: must be a whole number, got 'many'",
        "TRACKER_BATCH_MAX_ROWS: must be at least 1, got 0",
        "TRACKER_BATCH_FLUSH_INTERVAL_SECONDS: must be a finite number, got 'inf'",
        "TRACKER_SHUTDOWN_TIMEOUT_SECONDS: must be more than 0.0, got 0",
        "TRACKER_HTTP_PORT: must be at most 65535, got 65536",
        "TRACKER_LOG_LEVEL: must be 'debug', 'info', 'warning', 'error' or 'critical', got 'loud'",
        "TRACKER_EMBEDDING_DIMENSIONS: must be at most 16000, got 16001",
        "TRACKER_ALERTS_SUCCESS_FLOOR: must be less than 1.0, got 1",
        "TRACKER_BATCH_MAX_BYTES: must be at most TRACKER_BATCH_MAX_BUFFERED_BYTES (33554432), got 67108864",
        f"TRACKER_BATCH_MAX_BUFFERED_BYTES: must be at least twice {PAYLOAD} (20971520), got 33554432",
        "TRACKER_NATS_OUTCOMES_SUBJECT: must differ from TRACKER_NATS_DECISIONS_SUBJECT",
        "TRACKER_NATS_USER: needs TRACKER_NATS_PASSWORD too",
        "TRACKER_NATS_TLS_KEY_FILE: needs TRACKER_NATS_TLS_CERT_FILE too",
        f"TRACKER_NATS_USER: cannot go together with {LOGINS}; give one way to log in",
        "TRACKER_NATS_CREDS_FILE: the file that it names cannot be read: No such file or directory",
    ]
    assert not [sentence for sentence in found if "s3cret" in sentence]


def test_alerts_do_not_go_where_decisions_or_outcomes_come_from() -> None:
    [mistake] = mistakes({"TRACKER_ALERTS_SUBJECT": "llm.outcomes"})
    assert mistake.startswith("TRACKER_ALERTS_SUBJECT: must differ from TRACKER_NATS_DECISIONS_SUBJECT")


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("TRACKER_NATS_SERVERS", ["wss://h", "nats://u:p@h:1"], ["", "h:4222", "nats://", "ws://h,nats://h"]),
        ("TRACKER_NATS_STREAM_MAX_AGE_SECONDS", ["1", "31536000"], ["0", "-1", "1.5"]),
        ("TRACKER_NATS_STREAM_MAX_BYTES", ["1", "512GiB"], ["0", "-1", "8GB", "1.5GiB", "8 mib"]),
        ("TRACKER_NATS_STREAM_REPLICAS", ["1", "3", "5"], ["0", "2", "7"]),
        ("TRACKER_NATS_MAX_ACK_PENDING", ["-1", "1"], ["-2", "0"]),
        ("TRACKER_NATS_STREAM", ["LLM-2_x"], ["", "a>b", "a*", "a/b", "a\\b", "a\tb"]),
        ("TRACKER_NATS_DECISIONS_SUBJECT", ["x", "a.b.c"], ["", "a.*", "a.>", "a b", "a..b", ".a"]),
        ("TRACKER_NATS_MAX_PAYLOAD_BYTES", ["1", "16MiB"], ["0", "65MiB"]),
        ("TRACKER_POSTGRES_WRITERS", ["1", "32"], ["0", "33"]),
        (
            "TRACKER_POSTGRES_DSN",
            ["postgres:///db?host=/run/postgresql", "postgresql://a:1,b:2/db", "postgresql://u%40x:p@h"],
            [
                "",
                "h/db",
                "postgresql://h:99999/db",
                "postgresql://h/db?port=x",
                "postgresql://a,,b/db",
                "postgresql:///db?host=a,",
                "postgresql://u:p@q@h/db",
                "postgresql://u:p\n@h/db",
            ],
        ),
        ("TRACKER_BATCH_MAX_ROWS", ["1", "100000"], ["0", "100001", "", "ten"]),
        ("TRACKER_BATCH_FLUSH_INTERVAL_SECONDS", ["0", "3600"], ["-0.1", "3601", "nan", "soon"]),
        ("TRACKER_SHUTDOWN_TIMEOUT_SECONDS", ["0.5", "3600"], ["0", "-1", "3601"]),
        ("TRACKER_HTTP_HOST", ["localhost", "::1"], ["", "a b"]),
        ("TRACKER_HTTP_PORT", ["0", "65535"], ["-1", "65536"]),
        ("TRACKER_LOG_FORMAT", ["json", "CONSOLE"], ["xml"]),
        ("TRACKER_LOG_LEVEL", ["debug", "WARNING"], ["2", "warn"]),
        ("TRACKER_EMBEDDING_DIMENSIONS", ["1", "16000"], ["0", "16001"]),
        ("TRACKER_EMBEDDING_PROVIDER", ["none", "NONE"], ["", "cohere"]),
        (
            "TRACKER_EMBEDDING_URL",
            ["http://127.0.0.1:8080", "https://h/v1/"],
            [
                "",
                "h/v1",
                "ftp://h",
                "http://",
                "http://h:99999",
                "https://s3cret@h",
                "https://h/v1?key=s3cret",
            ],
        ),
        ("TRACKER_EMBEDDING_BATCH_TEXTS", ["1", "2048"], ["0", "2049"]),
        ("TRACKER_EMBEDDING_BATCH_BYTES", ["1", "64MiB"], ["0", "65MiB"]),
        ("TRACKER_EMBEDDING_MAX_CHARACTERS", ["1", "1000000"], ["0", "1000001"]),
        ("TRACKER_EMBEDDING_REQUESTS_PER_MINUTE", ["", "0.5", "3000"], ["0", "-1", "inf"]),
        ("TRACKER_EMBEDDING_TIMEOUT_SECONDS", ["0.5", "600"], ["0", "601", "nan"]),
        ("TRACKER_RETENTION_OLDER_THAN_DAYS", ["", "1", "36500"], ["0", "36501", "90d"]),
    ],
)
def test_bounds(name: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        load(environ={name: text})
    for text in bad:
        assert names(mistakes({name: text})) == {name}, text


def test_a_provider_needs_what_it_cannot_do_without() -> None:
    """And says what to do about a database that is migrated already."""
    local, openai = {"TRACKER_EMBEDDING_PROVIDER": "local"}, {"TRACKER_EMBEDDING_PROVIDER": "openai"}
    dimensions, model = {"TRACKER_EMBEDDING_DIMENSIONS": "256"}, {"TRACKER_EMBEDDING_MODEL": "small-1"}
    [mistake] = mistakes(local)
    assert mistake.startswith(
        "TRACKER_EMBEDDING_DIMENSIONS: must be 256 for TRACKER_EMBEDDING_PROVIDER local"
    )
    assert "where that is another, take openai and a model of that dimension" in mistake
    load(environ=local | dimensions)
    assert mistakes(openai) == [
        "TRACKER_EMBEDDING_MODEL: must be given where TRACKER_EMBEDDING_PROVIDER is openai"
    ]
    load(environ=openai | model)
    for environ in (model, local | dimensions | model):
        assert mistakes(environ) == [
            "TRACKER_EMBEDDING_MODEL: goes with openai as TRACKER_EMBEDDING_PROVIDER alone"
        ]
    [mistake] = mistakes(openai | {"TRACKER_EMBEDDING_MODEL": "x" * 101})
    assert mistake.startswith("TRACKER_EMBEDDING_MODEL: must be at most 100 characters")


def test_without_its_extra_the_local_provider_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tracker_daemon.config.sources.find_spec", lambda _: None)
    assert mistakes({"TRACKER_EMBEDDING_PROVIDER": "local", "TRACKER_EMBEDDING_DIMENSIONS": "256"}) == [
        "TRACKER_EMBEDDING_PROVIDER: local needs an extra: pip install 'tracker-daemon[embeddings]'"
    ]


def test_the_key_of_a_provider_is_one_word_from_a_file_and_never_shown(tmp_path: Path) -> None:
    file = tmp_path / "key"
    for text in ("s3cret key", "s3cret\nkey", "s3crét"):
        file.write_text(text)
        [mistake] = mistakes({"TRACKER_EMBEDDING_KEY_FILE": str(file)})
        assert mistake == "TRACKER_EMBEDDING_KEY: must be visible ASCII characters in one line"
    file.write_text("s3cret-key\n")
    settings = load(environ={"TRACKER_EMBEDDING_KEY_FILE": str(file)})
    assert settings.embedding.key is not None
    assert settings.embedding.key.get_secret_value() == "s3cret-key"
    assert "s3cret" not in repr(settings) + repr(settings.listing())


def test_user_and_password_need_each_other() -> None:
    assert mistakes({"TRACKER_NATS_PASSWORD": "s3cret"}) == [
        "TRACKER_NATS_PASSWORD: needs TRACKER_NATS_USER too"
    ]
    load(environ={"TRACKER_NATS_USER": "me", "TRACKER_NATS_PASSWORD": "s3cret"})


def test_dead_letters_alone_do_not_grow_old() -> None:
    unreplayed, days = "TRACKER_RETENTION_UNREPLAYED_DEAD_LETTERS", "TRACKER_RETENTION_OLDER_THAN_DAYS"
    assert mistakes({unreplayed: "true"}) == [f"{unreplayed}: needs {days} too"]
    assert names(mistakes({unreplayed: "true", days: "none"})) == {days}
    load(environ={unreplayed: "true", days: "90"})


def test_a_wrong_value_is_not_compared_with_others() -> None:
    """What a value should have been is not known, so only its own mistake is told."""
    found = mistakes({"TRACKER_BATCH_MAX_BUFFERED_BYTES": "lots", "TRACKER_BATCH_MAX_BYTES": "64MiB"})
    assert names(found) == {"TRACKER_BATCH_MAX_BUFFERED_BYTES"}
    assert len(found) == 1


@pytest.mark.parametrize("content", [None, "[nats", 'x = "\udcff"'])
def test_a_config_file_that_cannot_be_read_hides_no_other_mistake(toml: Path, content: str | None) -> None:
    """The user's password may stand in that file, so the missing password is no mistake yet."""
    if content is not None:
        toml.write_bytes(content.encode(errors="surrogateescape"))
    found = mistakes({"TRACKER_NATS_USER": "me", "TRACKER_BATCH_MAX_ROWS": "0"}, toml)
    assert names(found) == {str(toml), "TRACKER_BATCH_MAX_ROWS"}
    assert found[0].startswith(f"{toml}: the config file cannot be read: ")


@pytest.mark.parametrize(
    ("content", "name"),
    [
        ("max_rows = 5", "TRACKER_MAX_ROWS"),
        ("batch = 5", "TRACKER_BATCH"),
        ("[batch.max_rows]\nx = 1", "TRACKER_BATCH_MAX_ROWS_X"),
        ("[BATCH]\nmax_rows = 1", "TRACKER_BATCH_MAX_ROWS"),
        ("[batch_max]\nrows = 1", "TRACKER_BATCH_MAX_ROWS"),
        ("[batch]\nmax_rows = true", "TRACKER_BATCH_MAX_ROWS"),
        ("[postgres]\nprovider = {}", "TRACKER_POSTGRES_PROVIDER"),
        ("[[batch]]\nmax_rows = 1", "TRACKER_BATCH"),
    ],
)
def test_toml_of_another_shape_is_a_mistake(toml: Path, content: str, name: str) -> None:
    toml.write_text(content)
    assert names(mistakes({}, toml)) == {name}


def test_an_empty_known_section_is_fine(toml: Path) -> None:
    toml.write_text("[batch]\n")
    assert load(toml, environ={}) == Settings()


@contextmanager
def ordinary_user() -> Iterator[None]:
    """Root may read every file, so for the length of a block it is somebody else."""
    root = os.geteuid() == 0
    if root:
        os.seteuid(65534)
    try:
        yield
    finally:
        if root:
            os.seteuid(0)


def test_a_named_file_must_be_readable(tmp_path: Path) -> None:
    path = tmp_path / "seed"
    path.write_text("SU…")
    path.chmod(0)
    with ordinary_user():
        (found,) = mistakes({"TRACKER_NATS_NKEY_SEED_FILE": str(path)})
    assert found == "TRACKER_NATS_NKEY_SEED_FILE: the file that it names cannot be read: Permission denied"


def test_a_named_file_must_not_be_a_folder(tmp_path: Path) -> None:
    (found,) = mistakes({"TRACKER_NATS_TLS_CA_FILE": str(tmp_path)})
    assert found == "TRACKER_NATS_TLS_CA_FILE: the file that it names cannot be read: Is a directory"


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().batch.max_rows = 5


def test_the_tls_files_of_a_dsn_must_be_there_and_its_mode_be_known(tmp_path: Path) -> None:
    there = tmp_path / "ca.pem"
    there.touch()
    good = f"postgresql://db/x?sslmode=verify-full&sslrootcert={there}"
    load(environ={"TRACKER_POSTGRES_DSN": good, "TRACKER_POSTGRES_MIGRATE_DSN": good})
    mode, file, other = mistakes(
        {
            "TRACKER_QUERY_DSN": "postgresql://db/x?sslmode=verify",
            "TRACKER_POSTGRES_DSN": "postgresql://db/x?sslmode=verify",
            "TRACKER_POSTGRES_MIGRATE_DSN": f"{good}&sslkey={tmp_path}/key.pem",
        }
    )
    assert mode.startswith("TRACKER_POSTGRES_DSN: its sslmode must be one of disable, allow, ")
    why = "the file that its sslkey names cannot be read: No such file or directory"
    assert file == f"TRACKER_POSTGRES_MIGRATE_DSN: {why}"
    assert other.startswith("TRACKER_QUERY_DSN: its sslmode must be one of disable, allow, ")
