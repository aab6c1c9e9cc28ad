"""No secret and no payload gets out: by no log, however talkative, no page, no `check`, no process list."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import aiohttp
import nkeys
import pytest

from tests.acceptance.command import tracker
from tests.credentials import Operator, new_key, public
from tests.factory import decision, outcome
from tracker_daemon.embedded import NatsServer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from tests.acceptance.command import Daemon
    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream
    from tests.certificates import Authority

SECRET = "hunter2-never-printed"
PAGES = ("/metrics", "/healthz", "/readyz")


class Login(NamedTuple):
    """A way into NATS: what the server is told, what the daemon, and what must stay between them."""

    server: str
    settings: dict[str, str]
    secrets: list[str]


def login(way: str, folder: Path) -> Login:
    """Make one."""
    known = f"authorization {{ user: tracker, password: {SECRET} }}"
    match way:
        case "password":
            return Login(known, {"TRACKER_NATS_USER": "tracker", "TRACKER_NATS_PASSWORD": SECRET}, [SECRET])
        case "URL":
            return Login(known, {}, [SECRET])
        case "token":
            return Login(f"authorization {{ token: {SECRET} }}", {"TRACKER_NATS_TOKEN": SECRET}, [SECRET])
        case "nkey":
            user, file = new_key(nkeys.PREFIX_BYTE_USER), folder / "seed"
            file.write_bytes(user.seed)
            server = f"authorization {{ users: [ {{ nkey: {public(user)} }} ] }}"
            return Login(server, {"TRACKER_NATS_NKEY_SEED_FILE": str(file)}, [user.seed.decode()])
        case _:
            operator, file = Operator(), folder / "creds"
            lines = operator.write_creds(file).read_text().splitlines()
            secrets = [line for line in lines if line and not line.startswith("-")]
            return Login(operator.options, {"TRACKER_NATS_CREDS_FILE": str(file)}, secrets)


@pytest.fixture
async def role(dsn: str, sql: asyncpg.Connection) -> AsyncIterator[str]:
    """Yield a role whose password is not yet the secret one."""
    name = f"planted_{urlsplit(dsn).path[-8:]}"
    await sql.execute(f"CREATE ROLE {name} SUPERUSER LOGIN PASSWORD 'another'")
    yield name
    await sql.execute(f"DROP ROLE {name}")


@pytest.mark.parametrize("way", ["password", "URL", "token", "nkey", "creds"])
async def test_no_secret_is_said_whatever_fails(
    run: Run,
    basics: dict[str, str],
    dsn: str,
    sql: asyncpg.Connection,
    role: str,
    way: str,
    data_dir: Path,
    tmp_path: Path,
    authority: Authority,
) -> None:
    """Either server refuses the login, NATS is away, all is well, TLS is in the way: in turn."""
    way_in = login(way, tmp_path)
    place = urlsplit(dsn)
    address = f"{place.netloc.rpartition('@')[2]}{place.path}"
    with NatsServer(data_dir, options="authorization { user: another, password: another }") as server:
        user = f"tracker:{SECRET}@" if way == "URL" else ""
        settings = {
            **basics,
            **way_in.settings,
            "TRACKER_LOG_LEVEL": "debug",
            "TRACKER_NATS_SERVERS": f"nats://{user}127.0.0.1:{server.port}",
            "TRACKER_NATS_STREAM_MAX_BYTES": "1MiB",
            "TRACKER_POSTGRES_DSN": f"postgresql://{role}:{SECRET}@{address}",
            "TRACKER_POSTGRES_MIGRATE_DSN": f"postgresql://{address}?user={role}&password={SECRET}",
        }
        daemon = await run(settings)
        said = []
        await daemon.said("the database is not ready", "28P01")
        said.append(await everything(daemon))
        await sql.execute(f"ALTER ROLE {role} PASSWORD '{SECRET}'")
        await daemon.said("trouble with NATS", "Authorization Violation")
        said.append(await everything(daemon))
        server.stop()
        await daemon.said("trouble with NATS", "Connect call failed")
        said.append(await everything(daemon))
        server.options = way_in.server
        server.start()
        await daemon.ready()
        said.append(await everything(daemon))
        assert await daemon.stop() == 0
        server.stop()
        certificate = authority.issue("127.0.0.1")
        server.options += f'\ntls {{ cert_file: "{certificate}", key_file: "{certificate}" }}'
        server.start()
        ended = await tracker("check", *["--json"] * (way != "URL"), settings=settings)
    assert "no CA that is trusted here has signed it" in ended.out
    said += [ended.out, ended.err, daemon.output()]
    for secret in [SECRET, *way_in.secrets]:
        assert not [text for text in said if secret in text]


async def everything(daemon: Daemon) -> str:
    """All that may be seen of it at this moment."""
    pages = [(await daemon.get(path))[1] for path in PAGES]
    return "\n".join([*pages, arguments(daemon.process.pid)])


def arguments(pid: int) -> str:
    """What everybody on this machine may read of a process."""
    return Path(f"/proc/{pid}/cmdline").read_text()


async def test_no_payload_is_said_to_whoever_asks_and_nobody_else_may_ask(
    run: Run, settings: dict[str, str], stream: Stream
) -> None:
    """Good messages, wrong ones and one that the database refuses; from this machine, by its loopback."""
    planted = "planted-payload"
    daemon = await (await run({**settings, "TRACKER_LOG_LEVEL": "debug"})).ready()
    fields = ("agent_name", "decision_type", "prompt", "response", "model", "experiment", "variant", planted)
    text = decision(symbol="planted-payload", context={planted: planted}, **dict.fromkeys(fields, planted))
    await stream.publish(
        text,
        {**text, "confidence": planted},
        {**text, "prompt": f"{planted}\0"},
        f"{{{planted}".encode(),
    )
    await stream.publish(outcome(planted), outcome(planted, planted), subject=stream.outcomes)
    await stream.settled(6)
    assert (await daemon.metrics())("messages_settled_total", result="dead_letter") == 5
    assert planted not in await everything(daemon) + daemon.output()
    elsewhere = (await daemon.said("started"))["http"].replace("127.0.0.1", "127.0.0.2")
    async with aiohttp.ClientSession() as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await session.get(f"{elsewhere}/metrics")
    assert await daemon.stop() == 0
