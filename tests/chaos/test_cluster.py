"""The cluster stands up whatever ports are taken, and its servers go and come back."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import nats
from nats.js.api import StreamConfig

from tests.chaos import cluster
from tests.chaos.cluster import Cluster, free_ports

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_a_stream_has_three_replicas_and_outlives_a_crash(tmp_path: Path) -> None:
    """It is made at the first attempt, and as soon as a killed server is back, the next one may go."""
    async with Cluster(tmp_path) as servers:
        client = await nats.connect(servers.url.split(","))
        js = client.jetstream(timeout=10)
        info = await js.add_stream(StreamConfig(name="S", subjects=["s"], num_replicas=3))
        assert info.cluster is not None
        assert info.cluster.replicas is not None
        replicas = [replica.name for replica in info.cluster.replicas if replica.name]
        assert {info.cluster.leader, *replicas} == servers.servers.keys()
        for name in replicas:
            await servers.kill(name)
            await servers.start()
        assert (await js.publish("s", b"")).seq == 1
        await client.close()
    assert all(server.process.poll() is not None for server in servers.servers.values())


async def test_ports_that_are_taken_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        attempts = iter([[*free_ports()[:2], taken], free_ports()])
        monkeypatch.setattr(cluster, "free_ports", lambda: next(attempts))
        async with Cluster(tmp_path) as servers:
            assert not list(attempts)
        assert "address already in use" in servers.servers["three"].log.read_text()


async def test_what_a_client_sends_is_counted(tmp_path: Path) -> None:
    """By its name, on the server that it is connected to, after it has gone as well."""
    async with Cluster(tmp_path) as servers:
        client = await nats.connect(servers.servers["two"].url, name="a client")
        for _ in range(3):
            await client.publish("s")
        await client.flush()
        assert await servers.sent_by("a client", "two") == 3
        await client.close()
        assert await servers.sent_by("a client", "one", "two") == 3
        assert await servers.sent_by("another", "two") == 0
