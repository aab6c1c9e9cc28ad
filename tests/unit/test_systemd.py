"""What systemd hears of a daemon, on a real socket."""

from __future__ import annotations

import asyncio
import os
import time
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from tests.service_manager import ServiceManager, service_manager
from tests.waiting import until
from tracker_daemon import systemd
from tracker_daemon.systemd import MAX_STATUS, supervised

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_MICROSECONDS = 90_000
"""Of a watchdog that a test waits for."""


@pytest.fixture
def address(tmp_path: Path) -> str:
    return str(tmp_path / "notify")


@pytest.fixture
def manager(address: str) -> Iterator[ServiceManager]:
    with service_manager(address) as manager:
        yield manager


@pytest.fixture
def watched(address: str) -> dict[str, str]:
    """The environment of a service with a watchdog."""
    return {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": str(PATIENCE_MICROSECONDS)}


def always() -> bool:
    return True


async def test_started_and_stopping_are_said_with_what_is_in_the_way(
    manager: ServiceManager, address: str
) -> None:
    obstacles = {"postgres": "away", "nats": "not\nconnected"}
    async with supervised(always, lambda: obstacles, {"NOTIFY_SOCKET": address}) as stopping:
        await until(lambda: manager.status() == "not ready: postgres: away; nats: not connected")
        obstacles.clear()
        await until(lambda: manager.status() == "ready")
        obstacles["drain"] = "stopping"
        stopping()
    assert manager.told()[0] == "READY=1"
    assert manager.told()[-2:] == ["STOPPING=1", "STATUS=not ready: drain: stopping"]
    assert manager.beats() == 0


async def test_an_abstract_address_is_written_with_an_at_sign() -> None:
    address = f"@tracker-daemon-test-{os.getpid()}"
    with service_manager(address) as manager:
        async with supervised(always, dict, {"NOTIFY_SOCKET": address}):
            assert manager.told() == ["READY=1"]


async def test_the_watchdog_is_fed_whatever_is_in_the_way_until_a_part_has_died(
    manager: ServiceManager, watched: dict[str, str]
) -> None:
    asked: list[int] = []

    def alive() -> bool:
        asked.append(manager.beats())
        return len(asked) <= 3

    async with supervised(alive, lambda: {"postgres": "away"}, watched):
        await until(lambda: len(asked) == 4)
    assert asked == [0, 1, 2, 3]
    assert manager.beats() == 3


async def test_a_blocked_loop_does_not_feed_the_watchdog(
    manager: ServiceManager, watched: dict[str, str]
) -> None:
    async with supervised(always, dict, watched):
        await until(lambda: manager.beats() >= 2)
        before = manager.beats()
        time.sleep(2 * PATIENCE_MICROSECONDS / 1e6)  # noqa: ASYNC251 - this is what must be noticed
        assert manager.beats() == before
        await until(lambda: manager.beats() > before)


@pytest.mark.parametrize(
    "environ",
    [{"WATCHDOG_PID": "1"}, {"WATCHDOG_USEC": "soon"}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}],
)
async def test_a_watchdog_of_another_process_or_none_is_not_fed(
    environ: dict[str, str], manager: ServiceManager, watched: dict[str, str]
) -> None:
    async with supervised(always, dict, watched | environ):
        await until(manager.status)
        assert manager.beats() == 0


async def test_a_watchdog_of_this_process_is_fed(manager: ServiceManager, watched: dict[str, str]) -> None:
    async with supervised(always, dict, watched | {"WATCHDOG_PID": str(os.getpid())}):
        await until(manager.beats)


async def test_a_socket_that_refuses_is_said_once_and_loses_nothing(
    address: str, watched: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd, "LOOK_SECONDS", 0.01)
    asked: list[None] = []

    def alive() -> bool:
        asked.append(None)
        return True

    with capture_logs() as lines:
        async with supervised(alive, lambda: {"nats": "away"}, watched):
            await until(lambda: len(asked) >= 3)
            with service_manager(address) as manager:
                await until(manager.beats)
                assert manager.told()[:2] == ["READY=1", "STATUS=not ready: nats: away"]
    assert [line["socket"] for line in lines] == [address]


async def test_a_status_is_never_longer_than_what_systemd_reads(
    manager: ServiceManager, address: str
) -> None:
    async with supervised(always, lambda: {"postgres": "été " * 5000}, {"NOTIFY_SOCKET": address}):
        await until(manager.status)
    assert manager.status().startswith("not ready: postgres: été")
    assert len(manager.status()) <= MAX_STATUS


async def test_without_a_socket_nothing_is_told() -> None:
    async with supervised(always, dict, {"WATCHDOG_USEC": "1"}) as stopping:
        stopping()
        assert len(asyncio.all_tasks()) == 1
