"""The commands besides `run` and `demo`: what they print, and with which exit code they end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import orjson
import pytest

from tests.acceptance.command import tracker, until
from tests.factory import decision, outcome
from tracker_daemon import __version__
from tracker_daemon.doctor.postgres import BESIDE_WRITERS

if TYPE_CHECKING:
    from pathlib import Path

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream
    from tracker_daemon.embedded import PostgresServer

COMMANDS = [
    (),
    ("run",),
    ("demo",),
    ("migrate",),
    ("check",),
    ("verify",),
    ("prune",),
    ("dead-letters",),
    ("dead-letters", "list"),
    ("dead-letters", "show"),
    ("dead-letters", "replay"),
    ("dead-letters", "purge"),
]
SECRET = "hunter2-never-printed"


async def test_the_version_is_printed() -> None:
    assert await tracker("--version", settings={}) == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
async def test_every_command_explains_itself(command: tuple[str, ...]) -> None:
    """Usage, a sentence, options with a sentence each: on a pipe, without settings or servers."""
    ended = await tracker(*command, "--help", settings={})
    assert (ended.code, ended.err) == (0, "")
    usage, sentence, *_ = filter(None, map(str.strip, ended.out.splitlines()))
    assert usage.startswith(" ".join(("Usage: tracker-daemon", *command)))
    assert sentence[0].isupper()
    assert sentence.endswith(".")
    # No help text of typer's own making for an option that nobody described.
    options = [line.strip(" │") for line in ended.out.splitlines() if line.strip(" │").startswith("--")]
    assert "--help" in ended.out
    assert all("." in line for line in options), options


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("rnu",), "No such command 'rnu'"),
        (("run", "--embeded"), "No such option: --embeded"),
        (("migrate", "--outcome", "won=SUCCESS"), "--outcome goes with --adopt"),
        (("migrate", "--adopt", "--outcome", "won=WON"), "'won=WON' must look like WORD=SUCCESS"),
        (
            ("migrate", "--adopt", "--outcome", "won=SUCCESS", "--outcome", "won=FAILURE"),
            "a word is given with two meanings",
        ),
        (("dead-letters", "show", "not-a-uuid"), "UUID"),
        (("dead-letters", "list", "--since", "yesterday"), "expected an age like 24h or 30d"),
    ],
)
async def test_wrong_usage_is_explained(arguments: tuple[str, ...], complaint: str) -> None:
    ended = await tracker(*arguments, settings={})
    assert (ended.code, ended.out) == (2, "")
    assert complaint in ended.err
    assert "Traceback" not in ended.err


async def test_migrate_says_what_it_applied_and_has_nothing_to_do_twice(
    basics: dict[str, str], database: str
) -> None:
    settings = {**basics, "TRACKER_POSTGRES_DSN": database}
    first = await tracker("migrate", settings=settings)
    assert first.code == 0
    assert first.out.startswith("applied 001_decisions\n")
    again = await tracker("migrate", settings=settings)
    assert (again.code, again.out) == (0, "nothing to do: every migration is applied\n")


@pytest.fixture
def secretive(settings: dict[str, str], postgres_server: PostgresServer, dsn: str) -> dict[str, str]:
    """Settings with secrets in them that open what they should."""
    password = postgres_server.passfile.read_text().strip().rpartition(":")[2]
    parts = urlsplit(dsn)
    return {
        **settings,
        "TRACKER_POSTGRES_DSN": f"postgresql://tracker:{password}@{parts.netloc.rpartition('@')[2]}{parts.path}",
        "TRACKER_NATS_TOKEN": SECRET,
        "TRACKER_NATS_SERVERS": settings["TRACKER_NATS_SERVERS"].replace("//", f"//agent:{SECRET}@"),
    }


async def test_check_finds_a_good_set_up_good_and_prints_no_secret(
    run: Run, secretive: dict[str, str], stream: Stream
) -> None:
    daemon = await (await run(secretive)).ready()
    password = urlsplit(secretive["TRACKER_POSTGRES_DSN"]).password
    assert password
    human = await tracker("check", settings=secretive)
    machine = await tracker("check", "--json", settings=secretive)
    for ended in (human, machine):
        assert ended.code == 0
        assert SECRET not in ended.out + ended.err
        assert password not in ended.out + ended.err
    assert "TRACKER_BATCH_MAX_ROWS" in human.out
    assert "broken" not in human.out
    document = orjson.loads(machine.out)
    assert document["settings"]["TRACKER_POSTGRES_DSN"].startswith("postgresql://tracker:********@")
    assert document["settings"]["TRACKER_NATS_TOKEN"] == "********"
    # The servers of tests do not wait for the disk: a warning, and no failure.
    warned = [finding["part"] for finding in document["findings"] if finding["level"] != "ok"]
    assert warned == ["durability"]
    assert human.out.count("warning") == 1
    seen = {finding["part"]: finding["seen"] for finding in document["findings"]}
    assert stream.name in seen["stream"]
    assert await daemon.stop() == 0
    assert SECRET not in daemon.output()
    assert password not in daemon.output()


async def test_a_daemon_holds_the_connections_that_check_reckons_with(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    daemon = await run({**settings, "TRACKER_POSTGRES_WRITERS": "1"})
    await daemon.ready()
    await stream.publish(decision())
    await stream.settled(1)

    async def all_of_them() -> bool:
        held = await sql.fetchval(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE datname = current_database() AND application_name = 'tracker-daemon'"
        )
        return bool(held == 1 + BESIDE_WRITERS)

    await until("it holds them all, and no more", all_of_them)
    assert await daemon.stop() == 0


async def test_check_finds_every_fault_of_a_set_up_and_ends_with_1(
    settings: dict[str, str], database: str, taken_port: int
) -> None:
    """A database that was not migrated, and no NATS: the one does not hide the other."""
    broken = {
        **settings,
        "TRACKER_MIGRATE_ON_START": "false",
        "TRACKER_POSTGRES_DSN": database,
        "TRACKER_NATS_SERVERS": f"nats://127.0.0.1:{taken_port}",
    }
    human = await tracker("check", settings=broken)
    assert (human.code, human.out.count("broken")) == (1, 2)
    machine = await tracker("check", "--json", settings=broken)
    assert machine.code == 1
    wrong = {f["part"]: f["seen"] for f in orjson.loads(machine.out)["findings"] if f["level"] == "broken"}
    assert "tracker-daemon migrate" in wrong["schema"]
    assert f"127.0.0.1:{taken_port}" in wrong["nats"]
    for ended in (human, machine):
        assert "Traceback" not in ended.err


async def test_flags_come_before_the_environment_before_the_file(
    settings: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "tracker.toml"
    file.write_text("[batch]\nmax_rows = 111\nflush_interval_seconds = 0.5\nmax_bytes = '1MiB'\n")
    environment = {**settings, "TRACKER_BATCH_MAX_ROWS": "222", "TRACKER_BATCH_MAX_BYTES": "2MiB"}
    ended = await tracker(
        "check", "--config", file, "--set", "batch.max_rows=333", "--json", settings=environment
    )
    assert ended.code == 0
    listed = orjson.loads(ended.out)["settings"]
    assert listed["TRACKER_BATCH_MAX_ROWS"] == "333"
    assert listed["TRACKER_BATCH_MAX_BYTES"] == str(2 << 20)
    assert listed["TRACKER_BATCH_FLUSH_INTERVAL_SECONDS"] == "0.5"


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("--set", "batch.max_rows"), "--set number 1: must look like batch.max_rows=500"),
        (("--set", "batch.max_row=5"), "TRACKER_BATCH_MAX_ROW: no such setting (in the flags)"),
        (("--set", "batch.max_rows=0"), "TRACKER_BATCH_MAX_ROWS: must be at least 1, got 0"),
        (("--config", "/no/such/file.toml"), "/no/such/file.toml: the config file cannot be read"),
    ],
)
async def test_wrong_flags_are_sentences(arguments: tuple[str, ...], complaint: str) -> None:
    ended = await tracker("check", *arguments, settings={})
    assert (ended.code, ended.out) == (2, "")
    [sentence] = ended.err.splitlines()
    assert sentence.startswith(f"tracker-daemon: {complaint}")


class TestDeadLetters:
    """`dead-letters` on a database that a daemon has filled: one letter each of three reasons."""

    @pytest.fixture
    async def letters(self, run: Run, settings: dict[str, str], stream: Stream) -> list[dict[str, Any]]:
        """Make the letters and return what `list --json` says of them, newest first."""
        daemon = await (await run(settings)).ready()
        await stream.publish(decision(model=None), b"{[bold]not JSON", decision())
        await stream.publish(outcome(uuid4(), "MAYBE"), subject=stream.outcomes)
        await stream.settled(4)
        assert await daemon.stop() == 0
        return await self.listed(settings)

    @staticmethod
    async def listed(settings: dict[str, str], *arguments: str) -> list[dict[str, Any]]:
        ended = await tracker("dead-letters", "list", "--json", *arguments, settings=settings)
        assert (ended.code, ended.err) == (0, "")
        rows: list[dict[str, Any]] = orjson.loads(ended.out)
        return rows

    async def test_list_shows_them_all_or_some(
        self, letters: list[dict[str, Any]], settings: dict[str, str], stream: Stream
    ) -> None:
        assert {(row["reason"], row["field"], row["stream_sequence"]) for row in letters} == {
            ("missing_field", "model", 1),
            ("invalid_json", None, 2),
            ("invalid_field", "outcome", 4),
        }
        human = await tracker("dead-letters", "list", settings=settings)
        assert (human.code, human.err) == (0, "")
        for row in letters:
            assert row["id"] in human.out
            assert row["reason"] in human.out
        for arguments, reasons in {
            ("--reason", "missing_field"): {"missing_field"},
            ("--subject", stream.outcomes): {"invalid_field"},
            ("--since", "1h"): {"missing_field", "invalid_json", "invalid_field"},
            ("--since", "2100-01-01"): set(),
        }.items():
            assert {row["reason"] for row in await self.listed(settings, *arguments)} == reasons
        assert len(await self.listed(settings, "--limit", "1")) == 1

    async def test_show_prints_the_payload_as_it_came(
        self, letters: list[dict[str, Any]], settings: dict[str, str]
    ) -> None:
        id_ = next(row["id"] for row in letters if row["reason"] == "invalid_json")
        human = await tracker("dead-letters", "show", id_, settings=settings)
        assert (human.code, human.err) == (0, "")
        assert "{[bold]not JSON" in human.out
        machine = await tracker("dead-letters", "show", id_, "--json", settings=settings)
        shown = orjson.loads(machine.out)
        assert (shown["id"], shown["payload"], shown["replayed_at"]) == (id_, "{[bold]not JSON", None)

    @pytest.mark.parametrize("command", ["show", "replay"])
    async def test_an_unknown_id_is_a_sentence(
        self, command: str, letters: list[dict[str, Any]], settings: dict[str, str]
    ) -> None:
        assert letters
        unknown = str(uuid4())
        ended = await tracker("dead-letters", command, unknown, settings=settings)
        assert (ended.code, ended.out) == (1, "")
        [sentence] = ended.err.splitlines()
        assert sentence.startswith("tracker-daemon: no dead letter has the id " + unknown)

    async def test_replay_asks_which_ones(self, settings: dict[str, str]) -> None:
        ended = await tracker("dead-letters", "replay", settings=settings)
        assert ended.code == 2
        assert "--all" in ended.err

    async def test_replayed_letters_leave_the_list_and_purge_deletes_them(
        self, letters: list[dict[str, Any]], settings: dict[str, str], dsn: str
    ) -> None:
        """An operator mends a payload in place; what he did not mend stays until told otherwise."""
        sql = await asyncpg.connect(dsn)
        await sql.execute(
            "UPDATE llm_dead_letters SET payload = $1 WHERE reason = 'missing_field'",
            orjson.dumps(decision()),
        )
        await sql.close()
        replayed = await tracker("dead-letters", "replay", "--all", "--json", settings=settings)
        assert replayed.code == 1
        results = {row["id"]: row["result"] for row in orjson.loads(replayed.out)}
        mended = next(row["id"] for row in letters if row["reason"] == "missing_field")
        assert results == {row["id"]: "stored" if row["id"] == mended else "refused" for row in letters}
        assert mended not in {row["id"] for row in await self.listed(settings)}
        assert mended in {row["id"] for row in await self.listed(settings, "--all")}

        young = await tracker("dead-letters", "purge", "--older-than", "1h", settings=settings)
        assert (young.code, young.out) == (0, "0 dead letters deleted\n")
        purged = await tracker("dead-letters", "purge", "--json", settings=settings)
        assert (purged.code, orjson.loads(purged.out)) == (0, {"deleted": 1})
        unasked = await tracker("dead-letters", "purge", "--unreplayed", settings=settings)
        assert unasked.code == 1
        assert len(await self.listed(settings, "--all")) == 2
        forced = await tracker("dead-letters", "purge", "--unreplayed", "--yes", settings=settings)
        assert (forced.code, forced.out) == (0, "2 dead letters deleted\n")
        empty = await tracker("dead-letters", "list", "--all", settings=settings)
        assert (empty.code, empty.out) == (0, "No dead letters.\n")

    @pytest.mark.parametrize("command", [("list",), ("replay", "--all"), ("purge",)])
    async def test_no_database_is_a_sentence(self, command: tuple[str, ...], taken_port: int) -> None:
        dsn = f"postgresql://tracker:{SECRET}@127.0.0.1:{taken_port}/tracker"
        ended = await tracker("dead-letters", *command, settings={"TRACKER_POSTGRES_DSN": dsn})
        assert (ended.code, ended.out) == (1, "")
        [sentence] = ended.err.splitlines()
        assert sentence.startswith("tracker-daemon: PostgreSQL")
        assert f"127.0.0.1:{taken_port}" in sentence
        assert SECRET not in sentence


async def test_a_replay_writes_to_no_schema_that_a_daemon_refuses(
    basics: dict[str, str], database: str
) -> None:
    settings = {**basics, "TRACKER_POSTGRES_DSN": database}
    ended = await tracker("dead-letters", "replay", "--all", settings=settings)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "tracker-daemon: the tables are not there yet: run tracker-daemon migrate\n"
    await tracker("migrate", settings=settings)
    settings["TRACKER_EMBEDDING_DIMENSIONS"] = "4"
    ended = await tracker("dead-letters", "replay", "--all", settings=settings)
    assert (ended.code, ended.out) == (2, "")
    assert "TRACKER_EMBEDDING_DIMENSIONS is 4" in ended.err


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (("run", "--data-dir", "/nowhere"), "add --embedded"),
        (("run", "--embedded", "--set", "nats.servers=nats://x"), "brings its own servers"),
        (("run", "--embedded", "--set", "postgres.migrate_dsn=postgresql://x"), "brings its own servers"),
        (("dead-letters", "list", "--reason", "payload_too_large"), "too_large"),
    ],
)
async def test_options_that_do_not_fit_are_refused(arguments: tuple[str, ...], complaint: str) -> None:
    ended = await tracker(*arguments, settings={})
    assert ended.code == 2
    assert complaint in ended.err


async def test_check_names_the_stream_that_has_the_subjects_already(
    settings: dict[str, str], stream: Stream
) -> None:
    await stream.make()
    ended = await tracker("check", "--json", "--set", "nats.stream=ANOTHER", settings=settings)
    assert ended.code == 1
    [wrong] = [f["seen"] for f in orjson.loads(ended.out)["findings"] if f["level"] == "broken"]
    assert f"is captured by {stream.settings['TRACKER_NATS_STREAM']}" in wrong


async def test_a_list_on_80_columns_shows_whole_ids(
    settings: dict[str, str], sql: asyncpg.Connection
) -> None:
    """The ids and reasons are what the other commands take."""
    await sql.execute(
        "INSERT INTO llm_dead_letters "
        "(subject, stream_sequence, published_at, reason, field, detail, payload) "
        "SELECT 'llm.decisions', n, now(), 'rejected_by_database', 'context.a', repeat('words ', 30), '' "
        "FROM generate_series(1, 5) n"
    )
    ended = await tracker("dead-letters", "list", settings={**settings, "COLUMNS": "80"})
    for row in await sql.fetch("SELECT id FROM llm_dead_letters"):
        assert str(row["id"]) in ended.out
    assert ended.out.count("rejected_by_database") == 5
