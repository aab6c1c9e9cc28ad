"""Questions over a real NATS: the record's own answers, every refusal, and what befalls a service."""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import nats.errors
import pytest
from structlog.testing import capture_logs

from tests.asking import agent_on, served
from tests.conftest import DIMENSIONS
from tests.factory import decision, deliver, outcome
from tests.locks import blocked
from tests.provider import MODEL, EmbeddingServer, good, vector
from tests.provider import answer as answering
from tests.record import BEGIN, known
from tests.servers import Away
from tests.waiting import until
from tracker_daemon import metrics, postgres
from tracker_daemon.choices import ENDPOINTS
from tracker_daemon.config import load
from tracker_daemon.daemon import DRAINED, Daemon
from tracker_daemon.embedded import NatsServer
from tracker_daemon.postgres import connected
from tracker_daemon.queries import QUESTIONS
from tracker_daemon.signals import Stop
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    import asyncpg

    from tests.asking import Agent
    from tests.record import Row
    from tracker_daemon.embedded import PostgresServer


@pytest.fixture
async def agent(nats_server: NatsServer) -> AsyncIterator[Agent]:
    """Yield an agent on the shared server."""
    async with agent_on(nats_server) as agent:
        yield agent


def answered(name: str, code: str) -> float:
    """Questions so far that were answered so, in all tests."""
    labels = {"endpoint": name, "code": code}
    return metrics.registry.get_sample_value("tracker_queries_total", labels) or 0.0


async def test_every_endpoint_answers_from_the_record(
    agent: Agent, nats_server: NatsServer, dsn: str, record: asyncpg.Connection
) -> None:
    """Compared with the rows; `limit` is what a page has at most, and the rest follows by the cursor."""
    rows = await known(record)

    def ids(word: str | None, key: Any, *, descending: bool) -> list[str]:
        chosen = [row for row in rows if word is None or row["outcome"] == word]
        return [str(row["id"]) for row in sorted(chosen, key=key, reverse=descending)]

    def by_pnl(row: Row) -> Any:
        return row["pnl"] or 0, row["id"]

    lists = {
        "recent": ids(None, lambda row: (row["created_at"], row["id"]), descending=True),
        "successful": ids("SUCCESS", by_pnl, descending=True),
        "failed": ids("FAILURE", by_pnl, descending=False),
    }
    async with served(agent, nats_server, dsn):
        for name, expected in lists.items():
            assert [row["id"] for row in await agent.pages(name, limit=7)] == expected
            assert [row["id"] for row in await agent.pages(name, limit=1000)] == expected
        hits = [row for row in rows if {"hold", "sell"} <= set(re.findall(r"\w+", row["prompt"].lower()))]
        found = await agent.pages("search", text="Sell hold", limit=7)
        assert {row["decision"]["id"] for row in found} == {str(row["id"]) for row in hits}
        assert all("«hold»" in row["snippet"] for row in found)
        code, near, _ = await agent.ask("similar", situation={"trend": "up"}, symbol="BTC", limit=100)
        up = [row for row in rows if row["symbol"] == "BTC" and row["context"] == '{"trend": "up"}']
        assert {each["id"] for each in near["precedents"]} == {str(row["id"]) for row in up}
        assert (code, near["summary"]["decisions"]) == ("200", len(up))
        code, stats, _ = await agent.ask("stats", group_by=["agent_name"])
        told = {group["key"]["agent_name"]: group["total_decisions"] for group in stats["groups"]}
        agents = [row["agent_name"] for row in rows]
        assert (code, told) == ("200", {name: agents.count(name) for name in set(agents)})
        code, whole, _ = await agent.ask("decision", id=str(rows[0]["id"]))
        assert (code, whole["decision"]["prompt"]) == ("200", rows[0]["prompt"])


MOST = 64 << 10
FORBIDDEN = """
authorization {
    users: [
        {user: agent, password: secret}
        {user: tracker, password: secret, permissions: {subscribe: {deny: ["llm.query.>", "$SRV.>"]}}}
    ]
}
"""
WRONG = [
    ("recent", b"{", "400", "the question is no JSON object"),
    ("recent", b'{"limit": 10000000}', "400", "<= 1000"),
    ("recent", b'{"cursor": "x"}', "400", "the cursor is none of ours"),
    ("recent", b'{"a\\r\\nNats-Service-Error-Code: 200\\r\\n": 1}', "400", "unknown field"),
    ("recent", b'{"agent_name": "' + b"x" * 1000 + b'", "a": 1}', "400", "unknown field `a`"),
    ("recent", b" " * 70_000, "400", "at most 65536 bytes, not 70000"),
    ("stats", b'{"group_by": ["prompt"]}', "400", "prompt"),
    ("stats", b'{"agent_name": "a\\u0000b"}', "400", "the database cannot look for that"),
    ("search", b"{}", "400", "missing required field `text`"),
    ("search", b'{"text": "?"}', "400", "there is no word to look for"),
    ("similar", b"{}", "400", "missing required field `situation`"),
    ("similar", b'{"situation": {}}', "400", "the situation says nothing that counts"),
    ("similar", b'{"situation": {"a": 1}, "limit": 101}', "400", "<= 100"),
    ("similar", b'{"situation": {"a": 1}, "weights": {"a": 1001}}', "400", "from 0 to 1000"),
    ("context", b'{"situation": {"a": 1}, "outcome": "SUCCESS"}', "400", "leave out outcome"),
    ("context", b'{"situation": {"a": 1}, "token_budget": 9}', "400", "a budget of 9 is too small"),
    ("decision", b'{"id": "7"}', "400", "Invalid UUID"),
    ("decision", b'{"id": "00000000-0000-4000-8000-000000000000"}', "404", "no such decision"),
]


@pytest.mark.parametrize(("name", "raw", "code", "says"), WRONG)
async def test_what_is_wrong_gets_a_code_and_a_sentence(
    name: str, raw: bytes, code: str, says: str, agent: Agent, nats_server: NatsServer, dsn: str
) -> None:
    before = answered(name, code)
    async with served(agent, nats_server, dsn):
        found = await agent.ask(name, raw=raw)
        assert (found.code, found.size) == (code, 0)
        assert says in found.answer
        [stats] = await agent.services("STATS")
        [endpoint] = [one for one in stats["endpoints"] if one["name"] == name]
        assert (endpoint["num_requests"], endpoint["num_errors"]) == (1, 1)
    assert answered(name, code) == before + 1


async def test_a_defect_is_told_to_the_log_alone(
    agent: Agent, nats_server: NatsServer, dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Broken(QUESTIONS["recent"]):  # type: ignore[misc]
        async def answer(self, _: Any) -> None:
            raise ZeroDivisionError("s3cret")

    async with served(agent, nats_server, dsn):
        with capture_logs() as lines, monkeypatch.context() as patch:
            patch.setitem(ENDPOINTS, "recent", Broken)
            found = await agent.ask("recent")
        assert found.code == "500"
        assert "s3cret" not in found.answer
        assert any("s3cret" in str(line) for line in lines)
        assert (await agent.ask("recent")).code == "200"


async def test_services_can_be_found_and_share_the_load(
    agent: Agent, nats_server: NatsServer, dsn: str, record: asyncpg.Connection
) -> None:
    """Each question is answered by one of them alone, and what they look like is said, too."""
    assert await record.fetchval("SELECT count(*) FROM llm_decisions")
    async with served(agent, nats_server, dsn, 2):
        assert len({one["id"] for one in await agent.services("PING", 2)}) == 2
        [info, _] = await agent.services("INFO", 2)
        assert {one["name"]: one["subject"] for one in info["endpoints"]} == {
            name: f"{agent.subject}.{name}" for name in ENDPOINTS
        }
        for endpoint in info["endpoints"]:
            schemas = {about: msgspec.json.decode(text) for about, text in endpoint["metadata"].items()}
            assert schemas["question"]["title"] == f"The question {endpoint['name']}"
            assert schemas["answer"]["title"] == f"The answer to {endpoint['name']}"
        await asyncio.gather(*(agent.ask("recent") for _ in range(40)))
        counts = [
            end["num_requests"]
            for one in await agent.services("STATS", 2)
            for end in one["endpoints"]
            if end["name"] == "recent"
        ]
        assert sum(counts) == 40
        assert all(counts)


async def test_an_answer_that_cannot_be_sent_is_said_and_ends_nothing(
    small_server: NatsServer, dsn: str
) -> None:
    """Here it is about the service itself, with its schemas, on a server that takes no more than a page."""
    async with agent_on(small_server) as agent, served(agent, small_server, dsn):
        small_server.stop()
        small_server.options = "max_payload: 4096"
        small_server.start()
        with capture_logs() as lines:

            async def said() -> bool:
                await agent.services("INFO", seconds=0.1)
                return any(line["event"] == "an answer could not be sent" for line in lines)

            await until(said)
        assert (await agent.ask("recent")).code == "200"


async def test_what_nobody_waits_for_is_left_alone(agent: Agent, nats_server: NatsServer, dsn: str) -> None:
    async with served(agent, nats_server, dsn):
        with capture_logs() as lines:
            await agent.client.publish(f"{agent.subject}.recent")
            await agent.client.publish("$SRV.PING.llm-tracker")
            assert (await agent.ask("recent")).code == "200"
        assert not lines


async def test_more_questions_than_can_wait_are_told_so_at_once(
    agent: Agent, nats_server: NatsServer, dsn: str, sql: asyncpg.Connection
) -> None:
    """One is asked, eight wait for its connection; the others hear 503 while those are still under way."""
    async with served(agent, nats_server, dsn, connections=1):
        async with sql.transaction():
            await sql.execute("LOCK TABLE llm_decisions")
            asking = [asyncio.create_task(agent.ask("recent")) for _ in range(14)]
            await until(lambda: sum(task.done() for task in asking) == 5)
            refused = [task.result() for task in asking if task.done()]
            assert {reply.code for reply in refused} == {"503"}
            assert "too many questions wait" in refused[0].answer
        codes = sorted([(await task).code for task in asking])
        assert codes == ["200"] * 9 + ["503"] * 5


async def test_a_question_that_takes_too_long_is_ended(
    agent: Agent, nats_server: NatsServer, dsn: str, sql: asyncpg.Connection
) -> None:
    """And one that found no free connection for so long is not asked at all."""
    async with served(agent, nats_server, dsn, connections=1, timeout_seconds=0.2), sql.transaction():
        await sql.execute("LOCK TABLE llm_decisions")
        asking = [asyncio.create_task(agent.ask("stats")) for _ in range(6)]
        replies = [await task for task in asking]
    assert {(reply.code, reply.answer.split(":")[0]) for reply in replies} == {
        ("400", "this question takes longer than 0.2 s"),
        ("503", "other questions took all of 0.2 s"),
    }


@pytest.mark.parametrize("how", ["killed", "frozen"])
async def test_without_a_database_there_is_503_and_afterwards_answers(
    how: str,
    agent: Agent,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    dsn: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The reason stands in the log, once, and not in the reply."""
    monkeypatch.setattr(postgres, "CONNECT_TIMEOUT_SECONDS", 1)
    monkeypatch.setattr(postgres, "COMMAND_TIMEOUT_SECONDS", 1)
    async with served(agent, nats_server, dsn):
        assert (await agent.ask("recent")).code == "200"
        with capture_logs() as lines:
            async with Away(postgres_server, how):
                replies = [await agent.ask("recent") for _ in range(3)]
            assert {reply.code for reply in replies} == {"503"}
            assert {reply.answer for reply in replies} == {
                "the database does not answer questions now: ask again later"
            }

            async def again() -> bool:
                return (await agent.ask("recent")).code == "200"

            await until(again)
        assert [line["event"] for line in lines][-1] == "questions are answered again"
        assert sum(line["event"] == "questions cannot be answered" for line in lines) <= 2


async def test_after_nats_was_killed_it_answers_again(
    agent: Agent, nats_server: NatsServer, dsn: str
) -> None:
    async with served(agent, nats_server, dsn):
        async with Away(nats_server, "killed"):
            pass
        await agent.until_served()
        assert (await agent.ask("recent")).code == "200"


async def test_a_service_that_stops_says_so_to_whoever_waits(
    agent: Agent, nats_server: NatsServer, dsn: str, sql: asyncpg.Connection
) -> None:
    """Neither is that a trouble, nor does it wait for the database."""
    async with sql.transaction():
        await sql.execute("LOCK TABLE llm_decisions")
        with capture_logs() as lines:
            async with served(agent, nats_server, dsn, connections=1):
                asking = [asyncio.create_task(agent.ask("recent")) for _ in range(3)]
                await until(lambda: blocked(sql, 1))
        assert {(await task).answer for task in asking} == {"this daemon stops: ask again"}
    assert [line for line in lines if line["log_level"] != "info"] == []


async def test_a_daemon_that_may_not_listen_to_questions_goes_on(data_dir: Path, dsn: str) -> None:
    """It says so, stores what comes, and answers nothing."""
    with NatsServer(data_dir, options=FORBIDDEN) as server:
        async with agent_on(server, user="agent", password="secret") as agent:
            overrides = {
                "nats.servers": server.url,
                "nats.user": "tracker",
                "nats.password": "secret",
                "nats.stream_max_bytes": "1MiB",
                "postgres.dsn": dsn,
                "embedding.dimensions": str(DIMENSIONS),
            }
            stop, daemon = Stop(), Daemon(load(overrides=overrides, environ={}))
            with capture_logs() as lines:
                running = asyncio.create_task(daemon.run(stop, lambda: None))
                await until(lambda: any("llm.query.decision" in str(line) for line in lines))
                await until(lambda: not daemon.obstacles())
                await agent.client.jetstream().publish("llm.decisions", msgspec.json.encode(decision()))
                await until(lambda: recorded(dsn))
                with pytest.raises(nats.errors.NoRespondersError):
                    await agent.client.request("llm.query.recent")
                assert daemon.alive()
                stop.ask()
                assert await running == DRAINED
    refused = [line["reason"] for line in lines if line["event"] == "trouble with NATS"]
    assert all("permissions violation for subscription" in reason.lower() for reason in refused)


async def recorded(dsn: str) -> int:
    """How many decisions there are."""
    async with connected(dsn) as connection:
        count: int = await connection.fetchval("SELECT count(*) FROM llm_decisions")
        return count


async def test_the_maturity_window_of_the_settings_holds_where_a_question_gives_none(
    agent: Agent, nats_server: NatsServer, dsn: str, record: asyncpg.Connection
) -> None:
    as_of = BEGIN.replace(day=9)
    rows = [row["created_at"] for row in await known(record, as_of)]
    young = sum((as_of - created).total_seconds() < 86_400 for created in rows)
    assert young
    async with served(agent, nats_server, dsn, maturity_seconds=86_400):
        asked = {"as_of": as_of.isoformat()}
        assert (await agent.ask("stats", **asked)).answer["left_out"] == young
        assert (await agent.ask("stats", **asked, maturity_seconds=0)).answer["left_out"] == 0


@pytest.fixture
async def small_server(data_dir: Path) -> AsyncIterator[NatsServer]:
    """Yield a nats-server that takes no message of more than 64 KiB."""
    with NatsServer(data_dir, options=f"max_payload: {MOST}") as server:
        yield server


async def test_no_reply_is_larger_than_the_server_takes(
    small_server: NatsServer, dsn: str, sql: asyncpg.Connection
) -> None:
    """Pages and groups end earlier, texts are cut, objects left out, and what fits by no means is 413.

    A list holds up to 8,000 characters of what cannot be cut, twice; that fits, unless it is pictograms.
    """
    long, wide, huge, noted = (str(uuid4()) for _ in range(4))
    texts = {long: ("a" * 10, "b" * MOST), wide: ('"' * 2 * MOST, "b" * MOST)}
    store = Store(dsn)
    await store.write(
        deliver(
            *(decision(agent_name=f"{n:03}" * 30, prompt="\u00fc" * 1000) for n in range(200)),
            decision(id=long, prompt=texts[long][0], response=texts[long][1]),
            decision(id=wide, prompt=texts[wide][0], response=texts[wide][1]),
            decision(
                id=huge,
                symbol="HUGE",
                **dict.fromkeys(("agent_name", "model", "experiment", "variant"), "\U0001f4c8" * 100),
                **{name: {"key": "\U0001f4c8" * 7970} for name in ("context", "unknown")},
            ),
            decision(id=noted, symbol="NOTED"),
            decision(
                prompt="needle" + " \u00fc" * 3000,
                symbol="W",
                **{name: {"key": "\U0001f4c8" * 7900} for name in ("context", "unknown")},
            ),
        )
    )
    await store.write(deliver(outcome(noted, note="x" * MOST)))
    await store.close()
    expected = await sql.fetch(
        "SELECT id FROM llm_decisions WHERE symbol = 'BTC' ORDER BY created_at DESC, id DESC"
    )
    async with agent_on(small_server) as agent, served(agent, small_server, dsn):
        [info] = await agent.services("INFO")
        explained = {end["name"]: bool(end["metadata"]) for end in info["endpoints"]}
        assert (explained["stats"], explained["context"]) == (True, False)
        rows = await agent.pages("recent", symbol="BTC", limit=1000)
        assert [row["id"] for row in rows] == [str(row["id"]) for row in expected]
        hits = await agent.pages("search", text="buy", symbol="BTC", limit=1000)
        short = [row["id"] for row in rows if row["id"] not in texts]
        assert [row["decision"]["id"] for row in hits] == short
        code, stats, _ = await agent.ask("stats", group_by=["agent_name"])
        assert (code, stats["complete"]) == ("200", False)
        assert 50 < len(stats["groups"]) < 200
        for asked, (prompt, response) in texts.items():
            code, answer, size = await agent.ask("decision", id=asked)
            told = answer["decision"]
            assert (code, told["cut"]) == ("200", True)
            assert MOST * 0.95 < size <= MOST
            assert prompt.startswith(told["prompt"])
            assert response.startswith(told["response"])
            assert min(len(told["prompt"]), len(told["response"])) >= 10
        await sql.execute(
            """
            INSERT INTO llm_outcomes
                (decision_id, event_id, outcome, observed_at, received_at, stream_sequence)
            SELECT $1, gen_random_uuid(), 'PENDING', now(), now(), n FROM generate_series(1, 900) n
            """,
            long,
        )
        code, answer, size = await agent.ask("decision", id=long)
        events = [event["stream_sequence"] for event in answer["outcomes"]]
        assert (code, answer["complete"], answer["decision"]["cut"]) == ("200", False, True)
        assert MOST * 0.95 < size <= MOST
        assert events == list(range(901 - len(events), 901))
        assert len(events) > 50
        for name, question in (("recent", {"symbol": "W"}), ("search", {"text": "needle"})):
            code, answer, size = await agent.ask(name, **question)
            [row] = answer["rows"]
            told = row.get("decision", row)
            assert (code, told["cut"]) == ("200", True)
            assert MOST * 0.95 < size <= MOST
            assert len("needle") < len(told["prompt"]) < 3500
        for name, question in (
            ("decision", {"id": huge}),
            ("recent", {"symbol": "HUGE"}),
            ("search", {"text": "hold", "symbol": "HUGE"}),
        ):
            code, answer, _ = await agent.ask(name, **question)
            [row] = answer.get("rows", [answer])
            told = row.get("decision", row)
            assert (code, told["cut"], told["context"], told["extra"]) == ("200", True, None, None)
            assert told["prompt"] == decision()["prompt"]
        code, words, _ = await agent.ask("decision", id=noted)
        assert (code, f"bytes where NATS takes {MOST}" in words) == ("413", True)


async def test_precedents_end_where_the_message_ends(small_server: NatsServer, dsn: str) -> None:
    """The nearest ones, and the summary is about these."""
    situation = {f"{'x' * 20} {n}": "up" for n in range(30)}
    store = Store(dsn)
    await store.write(deliver(*(decision(context=situation) for _ in range(120))))
    await store.close()
    async with agent_on(small_server) as agent, served(agent, small_server, dsn):
        code, some, size = await agent.ask("similar", situation=situation, limit=100)
        assert (code, some["near"], MOST * 0.9 < size <= MOST) == ("200", 120, True)
        assert len(some["precedents"]) == some["summary"]["decisions"] < 100
        first = dict([*situation.items()][:1])
        code, all_, _ = await agent.ask("similar", situation=first, limit=100, min_overlap=0.01)
        assert (code, len(all_["precedents"]), all_["summary"]["decisions"]) == ("200", 100, 100)
        ids = [each["id"] for each in all_["precedents"]]
        assert [each["id"] for each in some["precedents"]] == ids[: len(some["precedents"])]


async def test_a_text_is_embedded_by_the_daemons_provider_and_refused_where_there_is_none(
    agent: Agent, nats_server: NatsServer, dsn: str
) -> None:
    """An embedding needs no provider; one that is away, slow or silly is no trouble of the database's."""
    store, prompts = Store(dsn), ["buy the breakout", "sell the breakout", "hold"]
    ids = [str(uuid4()) for _ in prompts]
    payloads = [
        decision(id=id_, prompt=prompt, prompt_embedding=vector(prompt), embedding_model=MODEL)
        for id_, prompt in zip(ids, prompts, strict=True)
    ]
    await store.write(deliver(*payloads, decision(prompt_embedding=vector("hold"), embedding_model="other")))
    await store.close()
    async with served(agent, nats_server, dsn):
        code, answer, _ = await agent.ask("prompts", embedding=vector("hold"), embedding_model=MODEL)
        assert (code, {row["decision"]["id"] for row in answer["rows"]}) == ("200", set(ids))
        assert answer["rows"][0]["decision"]["id"] == ids[2]
        assert answer["rows"][0]["distance"] == pytest.approx(0, abs=1e-6)
        for question, says in (
            (
                {"text": "hold"},
                "TRACKER_EMBEDDING_PROVIDER is none: set a provider, or ask with an embedding",
            ),
            ({}, "a text, or an embedding"),
            ({"embedding": [1, 2]}, "an embedding has 3 numbers here, not 2"),
            ({"embedding": [0, 0, 0]}, "nothing but zeros"),
            ({"embedding": [1, 2, 3], "hybrid": True}, "without a text there are no words"),
        ):
            code, words, _ = await agent.ask("prompts", **question)
            assert (code, says in words) == ("400", True)
    async with EmbeddingServer() as server:
        provider = {"provider": "openai", "url": server.url, "model": MODEL, "dimensions": str(DIMENSIONS)}
        async with served(agent, nats_server, dsn, embedding=provider, timeout_seconds=0.5):
            code, answer, _ = await agent.ask("prompts", text="hold", limit=2)
            assert (code, answer["embedding_model"], len(answer["rows"])) == ("200", MODEL, 2)
            assert answer["rows"][0]["decision"]["id"] == ids[2]
            code, answer, _ = await agent.ask("prompts", text="sell breakout", hybrid=True, limit=3)
            [found] = [row for row in answer["rows"] if row["by_words"] is not None]
            assert (code, found["decision"]["id"], found["by_words"]) == ("200", ids[1], 1)
            assert server.asked == [["hold"], ["sell breakout"]]
            code, words, _ = await agent.ask("prompts", text="hold", embedding_model="other")
            assert (code, f"from {MODEL} here" in words) == ("400", True)
            code, words, _ = await agent.ask("prompts", text=" \n")
            assert (code, "says nothing" in words) == ("400", True)

            enough = asyncio.Event()

            async def late(texts: list[str]) -> Any:
                await enough.wait()
                return await good(texts)

            for handler, code, says in (
                (answering({"error": {"code": "too_long"}}, 400), "400", "cannot be looked for"),
                (answering(b"{}"), "503", "no list of embeddings"),
                (answering({"data": [{"index": 0, "embedding": [1, 2]}]}), "503", "have 2 numbers"),
                (None, "503", "cannot be reached"),
                (late, "503", "no embedding within 0.5 s"),
            ):
                server.handler = handler
                found_code, words, _ = await agent.ask("prompts", text="hold")
                assert (found_code, says in words) == (code, True)
            enough.set()
            assert (await agent.ask("prompts", text="hold")).code == "200"


async def test_prompts_that_fill_a_message_are_fewer_and_then_cut(small_server: NatsServer, dsn: str) -> None:
    """What is in front comes; of one that is too large alone, less of it."""
    long, wide = "\U0001f4c8" * 3900, {"key": "\U0001f4c8" * 7900}
    store = Store(dsn)
    await store.write(
        deliver(
            *(decision(prompt=long, response="", prompt_embedding=[1, 2, n]) for n in range(8)),
            decision(symbol="W", prompt=long, prompt_embedding=[1, 2, 3], context=wide, unknown=wide),
        )
    )
    await store.close()
    async with agent_on(small_server) as agent, served(agent, small_server, dsn):
        code, answer, size = await agent.ask("prompts", embedding=[1, 2, 3], symbol="BTC")
        assert (code, len(answer["rows"])) == ("200", 3)
        assert answer["rows"][0]["distance"] == pytest.approx(0, abs=1e-6)
        assert not any(row["decision"]["cut"] for row in answer["rows"])
        assert size <= MOST
        code, answer, size = await agent.ask("prompts", embedding=[1, 2, 3], symbol="W")
        assert (code, [row["decision"]["cut"] for row in answer["rows"]]) == ("200", [True])
        assert size <= MOST
