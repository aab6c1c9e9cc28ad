"""What `check` finds: each trouble where its cause is and nowhere else, and nothing is changed by looking."""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import urlsplit
from uuid import uuid4

import nats
import orjson
import pytest

from tests.chaos.cluster import Cluster
from tests.conftest import DIMENSIONS, create_database
from tests.servers import Away
from tests.waiting import until
from tracker_daemon.config import load
from tracker_daemon.doctor import Finding, examine, jetstream, postgres
from tracker_daemon.doctor.indexes import indexes
from tracker_daemon.embedded import NatsServer, PostgresServer
from tracker_daemon.migrate import migrate
from tracker_daemon.postgres import connected

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg
    from nats.aio.client import Client

    from tracker_daemon.config import Settings

SECOND = 1_000_000_000
DAY = 86_400 * SECOND


def troubles(findings: list[Finding]) -> list[tuple[str, str, str]]:
    """What is not ok; that the servers of tests do not wait for the disk is known."""
    return [(f.part, f.level, f.seen) for f in findings if f.level != "ok" and "fsync is off" not in f.seen]


def assert_only(findings: list[Finding], part: str, level: str, *words: str) -> None:
    """It is the one trouble, of this part and level, and says all these words."""
    [trouble] = troubles(findings)
    assert trouble[:2] == (part, level)
    assert [word for word in words if word not in trouble[2]] == [], trouble[2]


class Broker:
    """A stream and a durable of one test, made by the server's own API with whatever configuration."""

    def __init__(self, client: Client, url: str) -> None:
        """Choose names that no other test has."""
        self.client, self.url = client, url
        self.name = f"T{uuid4().hex}"
        self.subjects = [f"{self.name}.decisions", f"{self.name}.outcomes"]

    def settings(self, **more: str) -> Settings:
        """The settings that name them."""
        return load(
            environ={
                "TRACKER_NATS_SERVERS": self.url,
                "TRACKER_NATS_STREAM": self.name,
                "TRACKER_NATS_DURABLE": "D",
                "TRACKER_NATS_DECISIONS_SUBJECT": self.subjects[0],
                "TRACKER_NATS_OUTCOMES_SUBJECT": self.subjects[1],
                **more,
            }
        )

    async def ask(self, subject: str, body: Any = None) -> dict[str, Any]:
        payload = orjson.dumps(body) if body else b""
        reply = await self.client.request(f"$JS.API.{subject}", payload, timeout=10)
        answer: dict[str, Any] = orjson.loads(reply.data)
        assert "error" not in answer, answer
        return answer

    async def make_stream(self, **changes: Any) -> None:
        good = {"subjects": self.subjects, "storage": "file", "discard": "new", "max_bytes": 1 << 20}
        await self.ask(
            f"STREAM.CREATE.{self.name}", {"name": self.name, **good, "max_age": 7 * DAY, **changes}
        )

    async def make_durable(self, **changes: Any) -> None:
        good = {"ack_policy": "explicit", "ack_wait": 60 * SECOND, "max_ack_pending": 20_000}
        body = {"stream_name": self.name, "config": {"durable_name": "D", **good, **changes}}
        await self.ask(f"CONSUMER.DURABLE.CREATE.{self.name}.D", body)

    async def publish(self, count: int = 1, size: int = 1000) -> None:
        for _ in range(count):
            await self.client.request(self.subjects[0], bytes(size), timeout=10)

    async def pull(self, count: int) -> None:
        """Ask for messages, of which none will be acknowledged."""
        request = orjson.dumps({"batch": count, "expires": 30 * SECOND})
        subject = f"$JS.API.CONSUMER.MSG.NEXT.{self.name}.D"
        inbox = self.client.new_inbox()
        await self.client.subscribe(inbox)  # the server forgets a request that nobody listens for
        await self.client.publish(subject, request, reply=inbox)

    async def look(self, **more: str) -> list[Finding]:
        """What is found, after which stream and consumer are what they were."""
        before = await self._configuration()
        findings = [finding async for finding in jetstream.look(self.settings(**more))]
        assert await self._configuration() == before
        return findings

    async def _configuration(self) -> list[Any]:
        names = (await self.ask("STREAM.NAMES"))["streams"] or []
        answers = [
            answer for name in names for answer in (await self.ask(f"CONSUMER.LIST.{name}"))["consumers"]
        ] + [await self.ask(f"STREAM.INFO.{name}") for name in names]
        return [(answer["config"], answer.get("state"), answer.get("num_waiting")) for answer in answers]


@pytest.fixture
async def broker(nats_server: NatsServer) -> AsyncIterator[Broker]:
    """Yield a client of the shared server; what it made is deleted."""
    client = await nats.connect(nats_server.url)
    broker = Broker(client, nats_server.url)
    yield broker
    if broker.name in ((await broker.ask("STREAM.NAMES"))["streams"] or []):
        await broker.ask(f"STREAM.DELETE.{broker.name}")
    await client.close()


async def test_a_good_stream_and_consumer_have_no_trouble(broker: Broker) -> None:
    await broker.make_stream()
    await broker.make_durable()
    await broker.publish()
    findings = await broker.look()
    assert troubles(findings) == []
    assert [finding.part for finding in findings] == [
        *("nats", "jetstream", "nats clock", "stream", "payload", "stream space", "consumer")
    ]
    assert "1 messages, 0 % of max_bytes used" in findings[-2].seen
    assert "1 waiting, 0 unacknowledged" in findings[-1].seen


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"max_age": 71 * 3600 * SECOND}, "warning", ["max_age is 71.0 h", "72.0 h", "--max-age=7d"]),
        ({"discard": "old"}, "warning", ["discard policy is old", "--discard=new"]),
        ({"max_msgs_per_subject": 5}, "warning", ["max_msgs_per_subject is 5", "--max-msgs-per-subject=-1"]),
        ({"retention": "workqueue"}, "warning", ["retention is workqueue"]),
        ({"retention": "interest"}, "warning", ["retention is interest"]),
        ({"storage": "memory"}, "warning", ["storage is memory", "restart"]),
        ({"duplicate_window": SECOND}, "warning", ["duplicate window is 1 s", "--dupe-window=120s"]),
        ({"max_age": 60 * SECOND, "duplicate_window": 60 * SECOND}, "warning", ["max_age is 0.0 h"]),
        (
            {"max_msgs_per_subject": 5, "discard_new_per_subject": True},
            *("warning", ["more are refused", "--no-discard-per-subject"]),
        ),
        ({"allow_rollup_hdrs": True}, "warning", ["Nats-Rollup", "--no-allow-rollup"]),
        ({"no_ack": True}, "warning", ["hear no acknowledgement", "--ack"]),
        ({"subject_transform": {"src": ">", "dest": "X.>"}}, "warning", ["under X.>", "--no-transform"]),
    ],
)
async def test_a_stream_that_loses_something_on_a_bad_day(
    broker: Broker, changes: dict[str, Any], level: str, words: list[str]
) -> None:
    await broker.make_stream(**changes)
    assert_only(await broker.look(), "stream", level, *words)


async def test_a_mirror_is_broken(broker: Broker) -> None:
    """It has no subjects, and no window for duplicates."""
    await broker.make_stream()
    copy = Broker(broker.client, broker.url)
    await copy.make_stream(subjects=None, mirror={"name": broker.name}, discard="old", max_bytes=-1)
    try:
        assert_only(await copy.look(), "stream", "broken", "a mirror", broker.name, "TRACKER_NATS_STREAM")
    finally:
        await copy.ask(f"STREAM.DELETE.{copy.name}")


async def test_a_sealed_stream_is_broken(broker: Broker) -> None:
    await broker.make_stream()
    config = (await broker.ask(f"STREAM.INFO.{broker.name}"))["config"]
    await broker.ask(f"STREAM.UPDATE.{broker.name}", config | {"sealed": True})
    assert_only(await broker.look(), "stream", "broken", "sealed", f"nats stream rm {broker.name}")


async def test_a_stream_that_captures_other_subjects(broker: Broker) -> None:
    await broker.make_stream(subjects=[f"{broker.name}.>"])
    kept = " ".join(f"--subjects={subject}" for subject in broker.subjects)
    assert_only(await broker.look(), "stream", "warning", f"captures {broker.name}.> too", kept)


async def test_a_stream_that_misses_a_subject_is_broken(broker: Broker) -> None:
    await broker.make_stream(subjects=broker.subjects[:1])
    assert_only(await broker.look(), "stream", "broken", f"does not capture {broker.subjects[1]}")


@pytest.mark.parametrize(
    ("discard", "limit", "then"),
    [
        ("new", {"max_bytes": 1200}, "are refused"),
        ("new", {"max_msgs": 1}, "are refused"),
        ("old", {"max_bytes": 1200}, "the oldest go"),
    ],
)
async def test_a_stream_that_is_nearly_full(
    broker: Broker, discard: str, limit: dict[str, int], then: str
) -> None:
    await broker.make_stream(discard=discard, **limit)
    assert "stream space" not in {part for part, *_ in troubles(await broker.look())}
    await broker.publish()
    [[_, level, seen]] = [found for found in troubles(await broker.look()) if found[0] == "stream space"]
    assert level == "warning"
    assert then in seen


async def test_a_stream_that_refuses_what_server_and_daemon_take(broker: Broker) -> None:
    await broker.make_stream(max_msg_size=1000)
    assert_only(await broker.look(), "payload", "warning", "at most 1000 bytes", "--max-msg-size=-1")


async def test_a_server_that_refuses_what_was_asked_for(broker: Broker) -> None:
    """The default is above what nats-server takes unless told otherwise: that is said, and no trouble."""
    await broker.make_stream()
    payload = {f.part: f.seen for f in await broker.look()}["payload"]
    assert payload == "at most 1 MiB, the server's max_payload"
    asked = {"TRACKER_NATS_MAX_PAYLOAD_BYTES": "2MiB"}
    assert_only(
        await broker.look(**asked), "payload", "warning", "at most 1 MiB", "max_payload there to 2 MiB"
    )
    assert troubles(await broker.look(TRACKER_NATS_MAX_PAYLOAD_BYTES="1MiB")) == []


@pytest.mark.parametrize(
    ("changes", "level", "words"),
    [
        ({"max_deliver": 3}, "broken", ["max_deliver is 3", "-1"]),
        ({"ack_policy": "all"}, "broken", ["ack policy is not explicit"]),
        (
            {"ack_policy": "none", "ack_wait": 0, "max_ack_pending": 0},
            *("broken", ["ack policy is not explicit"]),
        ),
        ({"max_batch": 5999}, "broken", ["max_batch is 5999", "for 6000", "--max-pull-batch=6000"]),
        ({"max_bytes": 1 << 20}, "broken", ["max_bytes is 1048576,", f"--max-pull-bytes={32 << 20}"]),
        ({"max_expires": SECOND}, "broken", ["max_expires is 1.0s", "--max-pull-expire=30s"]),
        (
            {"priority_groups": ["a"], "priority_policy": "overflow"},
            *("broken", ["priority groups", "TRACKER_NATS_DURABLE"]),
        ),
        ({"mem_storage": True}, "warning", ["in memory", "nats consumer rm"]),
        ({"replay_policy": "original"}, "warning", ["replay policy is original", "nats consumer rm"]),
        ({"headers_only": True}, "broken", ["headers only"]),
        ({"deliver_subject": "push"}, "broken", ["push consumer"]),
        ({"pause_until": "2999-01-01T00:00:00Z"}, "broken", ["paused until 2999", "nats consumer resume"]),
        ({"ack_wait": 5 * SECOND}, "warning", ["ack_wait is 5 s"]),
        ({"max_ack_pending": 5999}, "warning", ["max_ack_pending is 5999", "6000", "--max-pending=20000"]),
        ({"deliver_policy": "new"}, "warning", ["deliver policy is new"]),
        ({"inactive_threshold": DAY}, "warning", ["inactive_threshold is 86400 s"]),
    ],
)
async def test_a_consumer_that_loses_or_holds_up_messages(
    broker: Broker, changes: dict[str, Any], level: str, words: list[str]
) -> None:
    await broker.make_stream()
    await broker.publish()
    await broker.make_durable(**changes)
    assert_only(await broker.look(), "consumer", level, *words)


async def test_a_consumer_that_misses_a_subject_is_broken(broker: Broker) -> None:
    await broker.make_stream()
    await broker.make_durable(filter_subject=broker.subjects[1])
    assert_only(await broker.look(), "consumer", "broken", f"does not deliver {broker.subjects[0]}")


async def test_a_consumer_whose_filters_leave_nothing_out_is_slow(broker: Broker) -> None:
    await broker.make_stream()
    await broker.make_durable(filter_subjects=broker.subjects)
    assert_only(await broker.look(), "consumer", "warning", "filters", "2.10", "D --filter='>'")
    await broker.make_durable(filter_subject=">")
    assert troubles(await broker.look()) == []


async def test_a_new_consumer_that_passed_nothing_over_is_well(broker: Broker) -> None:
    await broker.make_stream()
    await broker.make_durable(deliver_policy="new")
    assert troubles(await broker.look()) == []
    await broker.publish()
    assert troubles(await broker.look()) == []


async def test_a_consumer_at_the_limit_of_unacknowledged_messages(broker: Broker) -> None:
    small = {"TRACKER_BATCH_MAX_ROWS": "1", "TRACKER_POSTGRES_WRITERS": "1"}
    await broker.make_stream()
    await broker.make_durable(max_ack_pending=4)
    await broker.publish(4)
    assert troubles(await broker.look(**small)) == []
    await broker.pull(4)

    async def delivered() -> bool:
        return bool((await broker.ask(f"CONSUMER.INFO.{broker.name}.D"))["num_ack_pending"] == 4)

    await until(delivered)
    assert_only(await broker.look(**small), "consumer", "warning", "4 messages wait for", "--max-pending=8")


async def test_a_consumer_at_the_limit_of_requests(broker: Broker) -> None:
    await broker.make_stream()
    await broker.make_durable(max_waiting=1)
    assert troubles(await broker.look()) == []
    await broker.pull(1)

    async def waits() -> bool:
        return bool((await broker.ask(f"CONSUMER.INFO.{broker.name}.D"))["num_waiting"] == 1)

    await until(waits)
    assert_only(await broker.look(), "consumer", "warning", "1 requests wait", "max_waiting")


async def test_what_the_daemon_makes_at_its_first_start_is_no_trouble(broker: Broker) -> None:
    assert troubles(await broker.look()) == []
    unmanaged = {"TRACKER_NATS_MANAGE_STREAM": "false"}
    assert_only(await broker.look(**unmanaged), "stream", "broken", "TRACKER_NATS_MANAGE_STREAM=true")
    await broker.make_stream()
    assert_only(await broker.look(**unmanaged), "consumer", "broken", "TRACKER_NATS_MANAGE_STREAM=true")


async def test_an_account_whose_storage_is_nearly_used(data_dir: Path) -> None:
    options = "accounts { A { jetstream: { max_store: 2000 }\n users: [ { user: a, password: b } ] } }"
    with NatsServer(data_dir, options=options) as server:
        url = server.url.replace("//", "//a:b@")
        client = await nats.connect(url)
        broker = Broker(client, url)
        assert_only(await broker.look(), "stream", "broken", "room for 2000 bytes", "max_store")
        assert troubles(await broker.look(TRACKER_NATS_STREAM_MAX_BYTES="2000")) == []
        other = Broker(client, url)
        await other.make_stream(max_bytes=100)
        seen = await broker.look(TRACKER_NATS_STREAM_MAX_BYTES="2000")
        assert_only(seen, "stream", "broken", "room for 1900 bytes")
        with pytest.raises(AssertionError, match="insufficient storage"):
            await broker.make_stream(max_bytes=2000)  # as it would be refused to the daemon
        await broker.make_stream(max_bytes=1900)
        assert "jetstream" not in {part for part, *_ in troubles(await broker.look())}
        await broker.publish()
        assert "jetstream" not in {part for part, *_ in troubles(await broker.look())}
        await broker.publish(size=700)
        [[_, level, seen]] = [found for found in troubles(await broker.look()) if found[0] == "jetstream"]
        assert (level, "raise max_store" in seen) == ("warning", True)
        await client.close()


# All that a daemon asks for, with stream and consumer there.
DAEMON = 'publish: { allow: ["$JS.API.STREAM.INFO.*", "$JS.API.CONSUMER.INFO.>", "$JS.API.CONSUMER.MSG.>"] }'


@pytest.mark.parametrize(
    ("rights", "expected"),
    [
        pytest.param(DAEMON, [], id="enough"),
        pytest.param(
            DAEMON.replace("CONSUMER.INFO", "NONE"),
            ["$JS.API.CONSUMER.INFO.", "permissions violation", "let the user publish"],
            id="no consumer",
        ),
        pytest.param(
            DAEMON.replace("STREAM.INFO", "NONE"),
            ["$JS.API.STREAM.INFO.", "permissions violation", "let the user publish"],
            id="no stream",
        ),
        pytest.param(
            'subscribe: { deny: "_INBOX.>" }', ["$JS.API.STREAM.INFO.", "_INBOX.>"], id="no answers"
        ),
    ],
)
async def test_a_user_that_may_do_little(
    data_dir: Path, rights: str, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a daemon does without is not missed; for the rest it is said what was not answered."""
    monkeypatch.setattr(jetstream, "REQUEST_SECONDS", 0.5)
    users = f"{{ user: a, password: b }}, {{ user: few, password: b, permissions: {{ {rights} }} }}"
    options = f"accounts {{ A {{ jetstream: enabled\n users: [ {users} ] }} }}"
    with NatsServer(data_dir, options=options) as server:
        client = await nats.connect(server.url.replace("//", "//a:b@"))
        broker = Broker(client, server.url)
        await broker.make_stream()
        await broker.make_durable()
        settings = broker.settings(TRACKER_NATS_USER="few", TRACKER_NATS_PASSWORD="b")
        findings = [found for found in await examine(settings) if found.part != "postgres"]
        await client.close()
    if expected:
        assert_only(findings, "nats", "broken", *expected)
    else:
        assert troubles(findings) == []
        assert {finding.part for finding in findings} >= {"stream", "consumer", "nats clock"}


async def test_an_account_without_jetstream_is_broken(data_dir: Path) -> None:
    options = "accounts { A { users: [ { user: a, password: b } ] } }"
    with NatsServer(data_dir, options=options) as server:
        settings = load(environ={"TRACKER_NATS_SERVERS": server.url.replace("//", "//a:b@")})
        findings = [finding async for finding in jetstream.look(settings)]
    assert_only(findings, "jetstream", "broken", "not enabled for account", "TRACKER_NATS_MODE=core")
    assert "None" not in findings[-1].seen


async def test_a_login_that_is_refused(data_dir: Path) -> None:
    """The server runs: there is nothing to start."""
    with NatsServer(data_dir, options="authorization { user: a, password: b }") as server:
        environ = {"TRACKER_NATS_SERVERS": server.url.replace("//", "//a:c@")}
        [found] = [found for found in await examine(load(environ=environ)) if found.part == "nats"]
    assert found.level == "broken"
    assert "TRACKER_NATS_USER and _PASSWORD" in found.seen
    assert "start it" not in found.seen


async def test_one_replica_in_a_cluster(data_dir: Path) -> None:
    async with Cluster(data_dir) as cluster:
        url = cluster.url.split(",")[0]
        client = await nats.connect(url)
        broker = Broker(client, url)
        await broker.make_stream()
        assert_only(await broker.look(), "stream", "warning", "one replica", "--replicas=3")
        await broker.ask(f"STREAM.DELETE.{broker.name}")
        await broker.make_stream(num_replicas=3)

        async def well() -> bool:
            return troubles(await broker.look()) == []

        await until(well)  # three servers that have just met may need a moment
        await client.close()


class Wrong(datetime):
    """A clock of this machine that is five seconds behind."""

    @classmethod
    def now(cls, tz: Any = None) -> Self:
        return super().now(tz) - timedelta(seconds=5)


async def test_a_clock_that_differs(broker: Broker, dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await broker.make_stream()
    for module in (jetstream, postgres):
        monkeypatch.setattr(module, "datetime", Wrong)
    assert_only(await broker.look(), "nats clock", "warning", "ahead of this machine", "chrony")
    assert_only(await look(dsn), "postgres clock", "warning", "ahead of this machine", "chrony")


@pytest.mark.parametrize(
    ("side", "limit", "words"),
    [
        ("nats", "consumer.connection.ATTEMPT_SECONDS", "no answer in time"),
        ("postgres", "doctor.examination.TIMEOUT_SECONDS", "no answer within 1 s"),
    ],
)
async def test_a_server_that_never_answers_is_not_waited_for(
    side: str,
    limit: str,
    words: str,
    broker: Broker,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And the other one is looked at all the same."""
    monkeypatch.setattr(f"tracker_daemon.{limit}", 1)
    environ = {"TRACKER_NATS_SERVERS": broker.url, "TRACKER_POSTGRES_DSN": dsn}
    async with Away({"nats": nats_server, "postgres": postgres_server}[side], "frozen"):
        findings = await examine(load(environ=environ))
    [silent] = [finding for finding in findings if finding.part == side]
    assert (silent.level, words in silent.seen) == ("broken", True)
    assert {"nats", "postgres"} <= {finding.part for finding in findings}


async def look(dsn: str, **more: str) -> list[Finding]:
    """What is found in the database."""
    environ = {"TRACKER_POSTGRES_DSN": dsn, "TRACKER_EMBEDDING_DIMENSIONS": str(DIMENSIONS), **more}
    return [finding async for finding in postgres.look(load(environ=environ))]


async def test_where_questions_are_asked(dsn: str, sql: asyncpg.Connection) -> None:
    """Another role, or another server, which need not be what the daemon writes to."""
    nobody, elsewhere = f"reader_{uuid4().hex}", "postgresql://127.0.0.1:1/tracker"
    await sql.execute(f"CREATE ROLE {nobody} LOGIN PASSWORD 'secret'")
    address = urlsplit(dsn)
    netloc = f"{nobody}:secret@127.0.0.1:{address.port}"
    reading = address._replace(netloc=netloc, query="").geturl()

    async def found(**more: str) -> list[Finding]:
        settings = load(environ={"TRACKER_POSTGRES_DSN": dsn, **more})
        return [finding for finding in await examine(settings) if finding.part == "questions"]

    assert await found() == []
    assert await found(TRACKER_QUERY_DSN=reading, TRACKER_QUERY_ENABLED="false") == []
    away = await found(TRACKER_QUERY_DSN=elsewhere)
    assert_only(away, "questions", "broken", "start it, or change TRACKER_QUERY_DSN")
    denied = await found(TRACKER_QUERY_DSN=reading)
    assert_only(denied, "questions", "broken", f"GRANT SELECT ON llm_scales TO {nobody}")
    await sql.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {nobody}")
    assert [finding.level for finding in await found(TRACKER_QUERY_DSN=reading)] == ["ok"]
    await sql.execute(f"DROP OWNED BY {nobody}; DROP ROLE {nobody}")


async def test_before_the_first_start_nothing_is_missing(database: str) -> None:
    """The daemon migrates by itself, unless it is not to, or cannot."""
    assert troubles(await look(database)) == []
    by_hand = await look(database, TRACKER_MIGRATE_ON_START="false")
    assert_only(by_hand, "schema", "broken", "run tracker-daemon migrate")
    nobody = "postgresql://127.0.0.1:1/tracker"
    cannot = await look(database, TRACKER_POSTGRES_MIGRATE_DSN=nobody)
    assert_only(cannot, "schema", "broken", "cannot migrate", "127.0.0.1:1")


@pytest.mark.parametrize(
    ("right", "remedy"),
    [
        ("ON SCHEMA public", "GRANT CREATE ON SCHEMA public TO"),
        ("ON DATABASE {database}", "let a superuser run CREATE EXTENSION vector"),
    ],
)
async def test_a_role_that_cannot_make_the_tables(database: str, right: str, remedy: str) -> None:
    """Neither them nor the extension, unless that is one that its owner trusts everybody with."""
    address, name = urlsplit(database), f"maker_{uuid4().hex}"
    async with connected(database) as sql:
        await sql.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'secret'; GRANT CREATE ON SCHEMA public TO {name}"
        )
        await sql.execute(f'GRANT CREATE ON DATABASE "{address.path[1:]}" TO {name}')
        quoted = right.replace("{database}", f'"{address.path[1:]}"')
        await sql.execute(f"REVOKE CREATE {quoted} FROM {name}; REVOKE CREATE {quoted} FROM PUBLIC")
        try:
            dsn = address._replace(netloc=f"{name}:secret@{address.netloc.rpartition('@')[2]}").geturl()
            assert_only(await look(dsn), "schema", "broken", remedy, "TRACKER_POSTGRES_MIGRATE_DSN")
        finally:
            await sql.execute(f"DROP OWNED BY {name}; DROP ROLE {name}")


async def test_a_good_database_has_no_trouble(dsn: str, sql: asyncpg.Connection) -> None:
    findings = await look(dsn)
    assert troubles(findings) == []
    assert findings[0].seen.startswith(f"PostgreSQL {await sql.fetchval('SHOW server_version')} at ")
    assert {finding.part for finding in findings} == {
        *("postgres", "durability", "vector", "schema", "rights", "indexes", "tables", "postgres clock"),
        "connections",
    }


PARTIAL_KEY = """
ALTER TABLE llm_outcomes DROP CONSTRAINT llm_outcomes_pkey;
CREATE UNIQUE INDEX ON llm_outcomes (decision_id, event_id) WHERE outcome = 'SUCCESS'
"""
LARGE = """
ALTER TABLE llm_dead_letters SET (autovacuum_enabled = off);
INSERT INTO llm_dead_letters (subject, published_at, reason, detail, payload)
SELECT 's', now(), 'invalid_json', repeat('x', 1500), '' FROM generate_series(1, 6000);
ALTER TABLE llm_dead_letters RESET (autovacuum_enabled)
"""


@pytest.mark.parametrize(
    ("cause", "part", "level", "words"),
    [
        (
            'ALTER DATABASE "{database}" SET synchronous_commit = off',
            *("durability", "warning", ["synchronous_commit is off"]),
        ),
        (
            'ALTER DATABASE "{database}" SET default_transaction_read_only = on',
            *("durability", "broken", ["read-only", "default_transaction_read_only = off"]),
        ),
        (
            "UPDATE pg_extension SET extversion = '0.7.4' WHERE extname = 'vector'",
            *("vector", "broken", ["pgvector 0.7.4", "ALTER EXTENSION vector UPDATE"]),
        ),
        (
            "INSERT INTO tracker_migrations (number, name) VALUES (999, 'of_tomorrow')",
            *("schema", "warning", ["1 migrations", "upgrade tracker-daemon"]),
        ),
        (
            "DROP TABLE llm_decisions CASCADE",
            *("schema", "broken", ["llm_decisions", "restore what was dropped"]),
        ),
        (
            'CREATE SCHEMA elsewhere; ALTER DATABASE "{database}" SET search_path = elsewhere',
            *("schema", "broken", ["public has some: ALTER ROLE", "SET search_path = public"]),
        ),
        (
            PARTIAL_KEY,
            *("indexes", "broken", ["llm_outcomes lacks its index"]),
        ),
        (
            """DROP INDEX llm_decisions_agent_statistics;
            CREATE INDEX ON llm_decisions (agent_name, created_at) INCLUDE (outcome)""",
            *("indexes", "warning", ["llm_decisions lacks its index on agent_name, created_at, id, outcome"]),
        ),
        (
            "ALTER TABLE llm_outcomes DROP CONSTRAINT llm_outcomes_pkey",
            *("indexes", "broken", ["ALTER TABLE llm_outcomes ADD PRIMARY KEY (decision_id, event_id)"]),
        ),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'llm_decisions_symbol'::regclass",
            *("indexes", "warning", ["REINDEX INDEX CONCURRENTLY llm_decisions_symbol"]),
        ),
        (
            "ALTER TABLE llm_outcomes SET (autovacuum_enabled = off)",
            *("tables", "warning", ["ALTER TABLE llm_outcomes RESET (autovacuum_enabled)"]),
        ),
        pytest.param(
            *(LARGE, "tables", "warning", ["ANALYZE llm_dead_letters"]),
            marks=pytest.mark.not_on_citus("its rows are on the nodes, and so are statistics of them"),
        ),
        (
            'ALTER DATABASE "{database}" CONNECTION LIMIT 5',
            *("connections", "warning", ["holds up to 14 connections", "room for 5"]),
        ),
    ],
)
async def test_a_database_with_a_trouble(
    cause: str, part: str, level: str, words: list[str], dsn: str, sql: asyncpg.Connection
) -> None:
    for statement in cause.replace("{database}", urlsplit(dsn).path[1:]).split(";"):
        await sql.execute(statement)
    assert_only(await look(dsn), part, level, *words)


async def test_an_index_of_another_name_serves_as_well(dsn: str, sql: asyncpg.Connection) -> None:
    await sql.execute("ALTER INDEX llm_decisions_symbol RENAME TO of_somebody_else")
    assert troubles(await look(dsn)) == []


async def test_the_migrations_make_the_indexes_that_are_derived_from_them(sql: asyncpg.Connection) -> None:
    """No more and no fewer; what makes one anew makes the same."""
    made = """
    SELECT relname::text AS table, indisunique AS unique,
           ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) FROM generate_series(1, indnatts) k)
             AS columns
    FROM pg_index JOIN pg_class t ON t.oid = indrelid
    WHERE relnamespace = 'public'::regnamespace AND relname <> 'tracker_migrations' AND relname !~ '_[0-9]+$'
    """
    there = {(row["table"], row["unique"], tuple(row["columns"])) for row in await sql.fetch(made)}
    derived = {(index.table, index.unique, index.columns + index.included) for index in indexes()}
    assert derived == there


async def test_what_is_to_be_made_anew_can_be_made(dsn: str, sql: asyncpg.Connection) -> None:
    for index in indexes():
        name = await sql.fetchval(
            "SELECT indexrelid::regclass::text FROM pg_index JOIN pg_class i ON i.oid = indexrelid "
            "WHERE indrelid = $1::regclass AND indisunique = $2 AND $3::text[] = "
            "ARRAY(SELECT pg_get_indexdef(indexrelid, k, true) FROM generate_series(1, indnkeyatts) k)",
            *(index.table, index.unique, index.columns),
        )
        drop = (
            f"ALTER TABLE {index.table} DROP CONSTRAINT {name} CASCADE"
            if index.unique
            else f"DROP INDEX {name}"
        )
        await sql.execute(drop)
        await sql.execute(index.make)
    assert troubles(await look(dsn)) == []


async def test_a_server_that_waits_for_the_disk_has_no_trouble(
    postgres_server: PostgresServer, data_dir: Path
) -> None:
    """Unlike the one that other tests share, for which that is what is said."""
    async with create_database(postgres_server) as dsn:
        durability = [finding for finding in await look(dsn) if finding.part == "durability"]
    assert [(finding.level, "fsync is off" in finding.seen) for finding in durability] == [("warning", True)]
    with PostgresServer(data_dir, options={"autovacuum": "off"}) as server:
        await migrate(server.dsn(), DIMENSIONS)
        findings = await look(server.dsn())
    assert_only(findings, "tables", "warning", "autovacuum is off on the whole server")
    assert {finding.part: finding.level for finding in findings}["durability"] == "ok"


class Standby(PostgresServer):
    """A server that only repeats what a primary would tell it, and that has none."""

    ready_line = "database system is ready to accept read-only connections"


async def test_a_replica_is_broken(data_dir: Path) -> None:
    with PostgresServer(data_dir) as server:
        await migrate(server.dsn(), DIMENSIONS)
    signal, owner = data_dir / "data" / "standby.signal", (data_dir / "data").stat()
    signal.touch()
    os.chown(signal, owner.st_uid, owner.st_gid)
    with Standby(data_dir) as server:
        assert_only(await look(server.dsn()), "durability", "broken", "replica", "TRACKER_POSTGRES_DSN")
