"""`tracker-daemon verify` as an operator runs it, beside a daemon too."""

from __future__ import annotations

import asyncio
import itertools
import random
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import orjson
import pytest

from tests.acceptance.command import tracker, until
from tests.factory import decision, outcome
from tracker_daemon.verify import MAX_HOLES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import asyncpg

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Payload, Stream

ROUNDS = 3
BACKLOG = 3000


async def verified(settings: dict[str, str], *arguments: str) -> tuple[int, dict[str, Any]]:
    """Run it for a program; return its exit code and what it says."""
    ended = await tracker("verify", "--json", *arguments, settings=settings)
    assert ended.err == ""
    return ended.code, orjson.loads(ended.out)


@pytest.fixture
async def filled(run: Run, settings: dict[str, str], stream: Stream) -> UUID:
    """Let a daemon store three decisions, two outcomes and a dead letter, and end; return the first's id."""
    id_ = uuid4()
    daemon = await (await run(settings)).ready()
    await stream.publish(decision(id=str(id_)), decision(), decision(), b"{[bold]not JSON")
    await stream.publish(outcome(id_, pnl="1.5"), outcome(uuid4()), subject=stream.outcomes)
    await stream.settled(6)
    assert await daemon.stop() == 0
    return id_


async def test_when_everything_is_there_it_says_so_and_ends_with_0(
    filled: UUID, settings: dict[str, str], stream: Stream
) -> None:
    assert filled
    human = await tracker("verify", settings={**settings, "COLUMNS": "80"})
    assert (human.code, human.err) == (0, "")
    assert human.out.endswith("No hole up to sequence 6: all that is acknowledged is in the tables.\n")
    assert await verified(settings) == (
        0,
        {
            "ok": True,
            "stream": stream.name,
            "durable": stream.durable,
            "since": None,
            "last_sequence": 6,
            "floor": 6,
            "subjects": {
                stream.decisions: {
                    "messages": 4,
                    "rows": 3,
                    "dead_letters": 1,
                    "expired": 0,
                    "in_flight": 0,
                    "waiting": 0,
                    "missing": 0,
                },
                stream.outcomes: {
                    "messages": 2,
                    "rows": 2,
                    "dead_letters": 0,
                    "expired": 0,
                    "in_flight": 0,
                    "waiting": 0,
                    "missing": 0,
                },
            },
            "acknowledged_in_flight": 0,
            "not_projected": 0,
            "projecting": 0,
            "gone": 0,
            "holes": [],
        },
    )


async def test_holes_are_named_with_their_remedy_and_end_with_1(
    filled: UUID, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection
) -> None:
    """A row that was deleted, a letter that was purged, an outcome that was changed by hand."""
    [deleted] = await sql.fetch(
        "DELETE FROM llm_decisions WHERE ctid = "
        "(SELECT ctid FROM llm_decisions WHERE id <> $1 LIMIT 1) RETURNING id::text",
        filled,
    )
    await sql.execute("DELETE FROM llm_dead_letters")
    await sql.execute("UPDATE llm_decisions SET outcome = 'FAILURE' WHERE id = $1", filled)
    human = await tracker("verify", settings={**settings, "COLUMNS": "80"})
    assert (human.code, human.err) == (1, "")
    code, seen = await verified(settings)
    assert (code, seen["ok"]) == (1, False)
    holes = {hole["decision_id"]: (hole["kind"], hole["sequence"]) for hole in seen["holes"]}
    assert holes.keys() == {deleted["id"], str(filled), None}
    assert holes[deleted["id"]] in {("missing", 2), ("missing", 3)}
    assert (holes[str(filled)], holes[None]) == (("not_projected", 1), ("missing", 4))
    for id_, (_, sequence) in holes.items():
        assert f"\n{sequence:>8}  {stream.decisions[:20]}" in human.out
        assert (id_ or "not known") in human.out
    assert "publish them again" not in human.out
    assert "TRACKER_NATS_DURABLE" in human.out
    assert "HOLES: " in human.out


@pytest.mark.parametrize(("holes", "named"), [(30, 30), (MAX_HOLES + 30, MAX_HOLES)])
async def test_many_holes_are_cut_short_for_people(
    run: Run, settings: dict[str, str], stream: Stream, sql: asyncpg.Connection, holes: int, named: int
) -> None:
    """It refers to --json for no more than is named there, and says how many are named nowhere."""
    daemon = await (await run(settings)).ready()
    await stream.publish(*[decision()] * holes)
    await stream.settled(holes)
    assert await daemon.stop() == 0
    await sql.execute("DELETE FROM llm_decisions")
    ended = await tracker("verify", settings=settings)
    assert (ended.code, ended.out.count("no row, no dead letter")) == (1, 20)
    assert f"… and {named - 20:,} more: see --json" in ended.out
    assert ("Another 30 are only counted" in ended.out) == (holes > named)
    assert f"HOLES: {holes:,} missing" in ended.out
    code, seen = await verified(settings)
    assert (code, len(seen["holes"])) == (1, named)


async def test_of_what_is_in_flight_it_says_up_to_where_there_is_no_hole(
    filled: UUID, settings: dict[str, str], stream: Stream
) -> None:
    assert filled
    await stream.publish(decision(), decision())
    held = await stream.client.jetstream().pull_subscribe_bind(stream.durable, stream.name)
    assert len(await held.fetch(2)) == 2
    human = await tracker("verify", settings=settings)
    assert (human.code, human.err) == (0, "")
    assert human.out.endswith(
        "No hole up to sequence 6. Of 2 delivered messages above it that are in no table it cannot be told "
        "whether all still wait for their acknowledgement: verify again.\n"
    )
    code, seen = await verified(settings)
    assert (code, seen["floor"], seen["subjects"][stream.decisions]["in_flight"]) == (0, 6, 2)


async def test_while_an_outcome_may_still_be_projected_it_speaks_of_messages_alone(
    filled: UUID, settings: dict[str, str], sql: asyncpg.Connection
) -> None:
    """The ledger has an event from above the acknowledgement floor that the decision does not show."""
    await sql.execute(
        "INSERT INTO llm_outcomes (decision_id, event_id, outcome, observed_at, received_at, "
        "stream_sequence) VALUES ($1, gen_random_uuid(), 'FAILURE', now(), now(), 7)",
        filled,
    )
    human = await tracker("verify", settings=settings)
    assert (human.code, human.err) == (0, "")
    assert "1 decisions do not show their latest outcome yet; it cannot be told whether" in human.out
    assert human.out.endswith(
        "No message is missing up to sequence 6: all that is acknowledged is in the tables.\n"
    )


async def test_what_waits_for_a_daemon_is_no_hole(settings: dict[str, str], stream: Stream) -> None:
    await stream.make(durable=False)
    await stream.publish(decision(), decision())
    human = await tracker("verify", settings=settings)
    assert (human.code, human.err) == (0, "")
    assert f"There is no durable consumer {stream.durable}" in human.out
    code, seen = await verified(settings)
    assert (code, seen["durable"], seen["subjects"][stream.decisions]["waiting"]) == (0, None, 2)


async def test_since_leaves_out_what_is_older(filled: UUID, settings: dict[str, str], stream: Stream) -> None:
    assert filled
    code, seen = await verified(settings, "--since", "1h")
    assert (code, seen["subjects"][stream.decisions]["messages"], seen["gone"]) == (0, 4, None)
    code, seen = await verified(settings, "--since", "2100-01-01")
    assert (code, seen["subjects"][stream.decisions]["messages"]) == (0, 0)
    assert seen["since"] == "2100-01-01T00:00:00+00:00"


def load(stream: Stream) -> Iterator[tuple[str, Payload]]:
    """Decisions, their outcomes before and after them, corrections, duplicates and bad ones, seeded."""
    pick = random.Random(11)  # noqa: S311 - repeatable, not secret
    ids: list[UUID] = []
    for number in itertools.count():
        kind = pick.random()
        if kind < 0.45 or not ids:
            ids.append(uuid4())
            yield stream.decisions, decision(id=str(ids[-1]), pnl=1 if kind < 0.1 else None)
        elif kind < 0.5:
            yield stream.decisions, decision(id=str(pick.choice(ids[-50:])))
        elif kind < 0.55:
            ids.append(uuid4())
            yield stream.outcomes, outcome(ids[-1], "FAILURE")
        elif kind < 0.58:
            yield stream.decisions, b"bad %d" % number
        else:
            yield stream.outcomes, outcome(pick.choice(ids[-50:]), pnl=number)


async def publish_until(enough: asyncio.Event, stream: Stream, published: list[int]) -> None:
    """Keep the daemon busy, with a bounded backlog; collect the sequences."""
    messages = load(stream)

    async def nearly_drained() -> bool:
        return await stream.unacknowledged() < BACKLOG

    while not enough.is_set():
        published += await stream.publish_all(itertools.islice(messages, 500))
        await until("the daemon keeps up", nearly_drained)


async def test_beside_a_daemon_under_load_there_is_never_a_hole(
    run: Run, settings: dict[str, str], stream: Stream
) -> None:
    """Small batches, so that much is in flight; whatever the moment, at the end all is there."""
    daemon = await (await run({**settings, "TRACKER_BATCH_MAX_ROWS": "50"})).ready()
    enough, published = asyncio.Event(), list[int]()
    publishing = asyncio.create_task(publish_until(enough, stream, published))
    last = 0

    async def went_on() -> bool:
        return len(published) > last

    for _ in range(ROUNDS):
        await until("publishing goes on", went_on)
        code, found = await verified(settings)
        assert (code, found["holes"], found["ok"]) == (0, [], True)
        last = found["last_sequence"]
    enough.set()
    await publishing
    await stream.settled(len(published))
    code, found = await verified(settings)
    assert (code, found["projecting"], found["gone"]) == (0, 0, 0)
    fates = found["subjects"].values()
    assert sum(fate["rows"] + fate["dead_letters"] for fate in fates) == len(published)
    assert await daemon.stop() == 0


async def test_core_mode_has_nothing_to_compare_with(settings: dict[str, str]) -> None:
    ended = await tracker("verify", settings={**settings, "TRACKER_NATS_MODE": "core"})
    assert (ended.code, ended.out) == (2, "")
    assert ended.err == (
        "tracker-daemon: TRACKER_NATS_MODE: must be jetstream, core NATS has no stream to compare with\n"
    )


@pytest.mark.parametrize("since", ["yesterday", "999999w"])
async def test_a_time_that_is_none_is_wrong_usage(since: str) -> None:
    ended = await tracker("verify", "--since", since, settings={})
    assert (ended.code, ended.out) == (2, "")
    assert "expected an age like 24h or 30d" in ended.err


async def test_a_server_that_is_away_is_a_sentence(settings: dict[str, str], taken_port: int) -> None:
    no_nats = {**settings, "TRACKER_NATS_SERVERS": f"nats://127.0.0.1:{taken_port}"}
    no_postgres = {
        **settings,
        "TRACKER_POSTGRES_DSN": f"postgresql://a:secret@127.0.0.1:{taken_port}/tracker",
    }
    for broken, name in ((no_nats, "NATS"), (no_postgres, "PostgreSQL")):
        ended = await tracker("verify", settings=broken)
        assert (ended.code, ended.out) == (1, "")
        [sentence] = ended.err.splitlines()
        assert sentence.startswith(f"tracker-daemon: {name}")
        assert f"127.0.0.1:{taken_port}" in sentence
        assert "secret" not in sentence


async def test_a_database_that_was_not_migrated_is_a_sentence(
    settings: dict[str, str], database: str
) -> None:
    ended = await tracker("verify", settings={**settings, "TRACKER_POSTGRES_DSN": database})
    assert (ended.code, ended.out) == (1, "")
    assert ended.err == "tracker-daemon: the tables are not there yet: run tracker-daemon migrate\n"
