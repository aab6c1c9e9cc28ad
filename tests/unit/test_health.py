"""The HTTP side: proof of life, readiness with its reasons, metrics; asked by a real client."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp import ClientConnectorError, ClientSession
from prometheus_client.parser import text_string_to_metric_families

from tracker_daemon import __version__, metrics
from tracker_daemon.config import HttpSettings
from tracker_daemon.errors import StartupError
from tracker_daemon.health import Obstacles, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


def always() -> bool:
    return True


@asynccontextmanager
async def client(obstacles: Obstacles) -> AsyncIterator[ClientSession]:
    """Yield a client of a server on a free port; what `obstacles` holds stands in the way."""
    async with (
        serving(HttpSettings(port=0), lambda: obstacles, always) as port,
        ClientSession(f"http://127.0.0.1:{port}") as session,
    ):
        yield session


@pytest.mark.parametrize("obstacles", [{}, {"postgres": "away"}])
async def test_alive_whatever_is_away(obstacles: Obstacles) -> None:
    """An outage elsewhere is no reason to kill the process."""
    async with client(obstacles) as http, http.get("/healthz") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.json() == {"status": "alive", "version": __version__}


async def test_not_alive_once_a_part_has_died() -> None:
    """As the watchdog of systemd, which is not fed any more: a supervisor may act before the drain ends."""
    died: list[str] = []
    async with (
        serving(HttpSettings(port=0), dict, lambda: not died) as port,
        ClientSession(f"http://127.0.0.1:{port}") as http,
    ):
        seen = []
        for part in ("", "writer"):
            died.extend(filter(None, [part]))
            async with http.get("/healthz") as response:
                seen.append((response.status, (await response.json())["status"]))
    assert seen == [(200, "alive"), (503, "dying")]


async def test_ready_when_nothing_stands_in_the_way() -> None:
    async with client({}) as http, http.get("/readyz") as response:
        assert response.status == 200
        assert response.content_type == "application/json"
        assert await response.json() == {"status": "ready", "obstacles": {}}


async def test_not_ready_says_why() -> None:
    obstacles = {"postgres": "connection refused", "nats": "not connected — «é»"}
    async with client(obstacles) as http, http.get("/readyz") as response:
        assert response.status == 503
        assert await response.json() == {"status": "not ready", "obstacles": obstacles}


async def test_readiness_is_looked_at_anew_for_each_request_and_scrape() -> None:
    obstacles: Obstacles = {}
    seen = []
    async with client(obstacles) as http:
        for change in ({}, {"nats": "not connected"}, {}):
            obstacles.clear()
            obstacles.update(change)
            async with http.get("/readyz") as response:
                seen.append((response.status, metrics.registry.get_sample_value("tracker_ready")))
    assert seen == [(200, 1), (503, 0), (200, 1)]


async def test_metrics_are_served_in_prometheus_text_format() -> None:
    async with client({}) as http:
        metrics.flushes.labels("rows").inc(2)
        async with http.get("/metrics") as response:
            assert response.status == 200
            assert response.content_type == "text/plain"
            text = await response.text()
    samples = {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert samples["tracker_build_info", __version__] == 1
    assert samples["tracker_flushes_total", "rows"] >= 2
    assert ("tracker_buffered_rows",) in samples
    assert ("process_resident_memory_bytes",) in samples


async def test_nothing_else_is_served() -> None:
    async with client({}) as http:
        for path in ("/", "/metrics/x", "/debug"):
            async with http.get(path) as response:
                assert response.status == 404
        async with http.post("/readyz") as response:
            assert response.status == 405


async def test_a_taken_port_is_told_by_the_settings_name() -> None:
    async with serving(HttpSettings(port=0), dict, always) as port:
        with pytest.raises(StartupError) as raised:
            async with serving(HttpSettings(port=port), dict, always):
                pytest.fail("a second server listens on the same port")
    assert f"127.0.0.1:{port}" in str(raised.value)
    assert "TRACKER_HTTP_PORT" in str(raised.value)


async def test_an_address_of_another_machine_is_told_by_the_settings_name() -> None:
    with pytest.raises(StartupError, match="TRACKER_HTTP_HOST"):
        async with serving(HttpSettings(host="203.0.113.1", port=0), dict, always):
            pytest.fail("it listens on an address that is not this machine's")


async def test_the_port_is_given_back_at_the_end_of_the_block() -> None:
    async with serving(HttpSettings(port=0), dict, always) as port:
        pass
    async with ClientSession() as http:
        with pytest.raises(ClientConnectorError):
            await http.get(f"http://127.0.0.1:{port}/healthz")
    async with serving(HttpSettings(port=port), dict, always) as again:
        assert again == port


async def test_an_error_inside_the_block_passes_and_the_port_is_given_back() -> None:
    port = 0
    with pytest.raises(LookupError):
        async with serving(HttpSettings(port=0), dict, always) as port:
            raise LookupError
    async with serving(HttpSettings(port=port), dict, always) as again:
        assert again == port
