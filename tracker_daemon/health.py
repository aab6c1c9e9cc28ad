"""`/metrics`, `/healthz` and `/readyz` over HTTP."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import orjson
from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from tracker_daemon import __version__, metrics
from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tracker_daemon.config import HttpSettings

Obstacles = dict[str, str]
"""What stands in the way of readiness: a part's name and a sentence each; empty when ready."""


@asynccontextmanager
async def serving(
    settings: HttpSettings, obstacles: Callable[[], Obstacles], alive: Callable[[], bool]
) -> AsyncIterator[int]:
    """Serve for the length of a block and yield the port; `StartupError` when it is taken.

    `alive`: whether no part has died. That the event loop turns is proved by any answer.
    """
    metrics.ready.set_function(lambda: not obstacles())

    async def healthz(_: web.Request) -> web.Response:
        if alive():
            return _json({"status": "alive", "version": __version__})
        reason = "a part of the daemon has died: what is held is written, then the process ends"
        return _json({"status": "dying", "version": __version__, "reason": reason}, 503)

    async def readyz(_: web.Request) -> web.Response:
        found = obstacles()
        return _json({"status": "not ready" if found else "ready", "obstacles": found}, 503 if found else 200)

    async def exposition(_: web.Request) -> web.Response:
        return web.Response(
            body=generate_latest(metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    app = web.Application()
    app.add_routes(
        [web.get("/metrics", exposition), web.get("/healthz", healthz), web.get("/readyz", readyz)]
    )
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, settings.host, settings.port)
        try:
            await site.start()
        except OSError as error:
            raise StartupError(
                f"cannot listen on {settings.host}:{settings.port} ({error.strerror or error}): "
                "choose another TRACKER_HTTP_PORT or TRACKER_HTTP_HOST"
            ) from error
        yield runner.addresses[0][1]
    finally:
        await runner.cleanup()


def _json(body: dict[str, object], status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body) + b"\n", status=status, content_type="application/json")
