"""An agent that asks over NATS, and services that answer it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import nats
import nats.errors

from tests.chores import running
from tests.schemas import validator
from tests.waiting import until
from tracker_daemon.choices import ENDPOINTS
from tracker_daemon.config import load
from tracker_daemon.consumer import connect, disconnect
from tracker_daemon.embeddings import TextEmbedder
from tracker_daemon.service import QueryService

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from nats.aio.client import Client

    from tracker_daemon.embedded import NatsServer


class Reply(NamedTuple):
    """What came back: the code of an error and its words, or 200 and the answer."""

    code: str
    answer: Any
    size: int
    """Bytes of the answer."""


class Agent:
    """Asks the services that share a subject of the test's own."""

    def __init__(self, client: Client) -> None:
        """Ask through a client that is connected."""
        self.client = client
        self.subject = f"{uuid.uuid4().hex}.query"

    async def ask(self, name: str, /, *, raw: bytes | None = None, **question: Any) -> Reply:
        """Ask for one answer, which has to follow its schema; `raw` goes as it is."""
        data = msgspec.json.encode(question) if raw is None else raw
        message = await self.client.request(f"{self.subject}.{name}", data, timeout=40)
        headers = message.headers or {}
        if code := headers.get("Nats-Service-Error-Code"):
            return Reply(code, headers["Nats-Service-Error"], len(message.data))
        answer = msgspec.json.decode(message.data)
        validator("answer", name).validate(answer)
        validator("question", name).validate(msgspec.json.decode(data or b"{}"))
        return Reply("200", answer, len(message.data))

    async def pages(self, name: str, **question: Any) -> list[Any]:
        """The rows of all pages."""
        rows: list[Any] = []
        while True:
            _, page, _ = await self.ask(name, **question)
            rows += page["rows"]
            if page["cursor"] is None:
                return rows
            question["cursor"] = page["cursor"]

    async def services(self, verb: str, count: int = 1, seconds: float = 30) -> list[Any]:
        """What so many services of this subject say to a verb of `$SRV`; less if `seconds` pass first."""
        inbox = self.client.new_inbox()
        subscription = await self.client.subscribe(inbox)
        await self.client.publish(f"$SRV.{verb}.llm-tracker", reply=inbox)
        found: list[Any] = []
        with contextlib.suppress(nats.errors.TimeoutError):
            while len(found) < count and (data := (await subscription.next_msg(timeout=seconds)).data):
                said = msgspec.json.decode(data)
                if all(end["subject"].startswith(self.subject) for end in said.get("endpoints", ())):
                    found.append(said)
        await subscription.unsubscribe()
        return found

    async def until_served(self, services: int = 1) -> None:
        """Wait until so many services have all their endpoints."""

        async def complete() -> bool:
            found = await self.services("INFO", services, 0.5)
            return [len(one["endpoints"]) for one in found] == [len(ENDPOINTS)] * services

        await until(complete)


@contextlib.asynccontextmanager
async def agent_on(server: NatsServer, **login: Any) -> AsyncIterator[Agent]:
    """Yield an agent, which outlasts a server that goes and comes."""

    async def taken_away(_: Exception) -> None:
        """Let it pass: nats-py would print it."""

    client = await nats.connect(
        server.url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, error_cb=taken_away, **login
    )
    try:
        yield Agent(client)
    finally:
        await client.close()


@contextlib.asynccontextmanager
async def served(
    agent: Agent,
    server: NatsServer,
    dsn: str,
    /,
    count: int = 1,
    embedding: Mapping[str, str] | None = None,
    *,
    statement_cache: bool = True,
    **given: Any,
) -> AsyncIterator[None]:
    """So many services answer for the length of a block, each with a client of its own."""
    overrides = {f"embedding.{key}": value for key, value in (embedding or {}).items()}
    overrides |= {f"query.{key}": str(value) for key, value in ({"subject": agent.subject} | given).items()}
    settings = load(overrides={"nats.servers": server.url, **overrides}, environ={})
    clients = [await connect(settings.nats, lambda _: None) for _ in range(count)]
    try:
        texts = [
            TextEmbedder(settings.embedding, settings.query.timeout_seconds, settings.redact.redactor)
            for _ in clients
        ]
        services = (
            QueryService(client, settings.query, each, dsn, statement_cache=statement_cache)
            for client, each in zip(clients, texts, strict=True)
        )
        async with running(*services):
            await agent.until_served(count)
            yield
    finally:
        await asyncio.gather(*map(disconnect, clients))
