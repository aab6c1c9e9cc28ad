"""A server of embeddings as OpenAI's, HTTP on a free port, that behaves as well or badly as it is told."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Self

from aiohttp import web

from tests.conftest import DIMENSIONS

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Handler = Callable[[list[str]], Awaitable[web.Response | None]]

MODEL = "small-1"


def vector(text: str) -> list[float]:
    """What the server makes of a text: the same each time, and exact in float32."""
    digest = hashlib.sha256(text.encode()).digest()
    return [digest[number] / 256 - 0.5 for number in range(DIMENSIONS)]


async def good(texts: list[str]) -> web.Response:
    """Answer rightly, though in another order."""
    items = [
        {"object": "embedding", "index": index, "embedding": vector(text)} for index, text in enumerate(texts)
    ]
    return web.json_response({"object": "list", "data": items[::-1], "model": MODEL, "usage": {}})


def answer(data: Any, status: int = 200, **headers: str) -> Handler:
    """Answer always with this: JSON, or bytes as they are."""

    async def handle(_: list[str]) -> web.Response:
        if isinstance(data, bytes):
            return web.Response(body=data, status=status, headers=headers)
        return web.json_response(data, status=status, headers=headers)

    return handle


class EmbeddingServer:
    """Listens for the length of a block; `asked` are the texts of each request.

    `handler` is who answers; where there is none, or no answer, the connection is cut.
    """

    def __init__(self) -> None:
        self.handler: Handler | None = good
        self.asked: list[list[str]] = []
        self.headers: list[dict[str, str]] = []
        self.models: set[str] = set()
        self.port = 0
        self._runner: web.AppRunner | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, after a stop on the same port."""
        app = web.Application(client_max_size=64 << 20)
        app.router.add_post("/v1/embeddings", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        """Listen no more, and cut the connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.asked.append(body["input"])
        self.models.add(body["model"])
        self.headers.append(dict(request.headers))
        if self.handler is not None and (response := await self.handler(body["input"])) is not None:
            return response
        assert request.transport is not None
        request.transport.abort()
        return web.Response()
