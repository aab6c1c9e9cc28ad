"""The connection to a real nats-server: every way to log in, every refusal in words and without a secret."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import TYPE_CHECKING, Any

import nkeys
import pytest
import trustme
from structlog.testing import capture_logs

from tests.credentials import Operator, new_key, public
from tests.inbox import Inbox
from tests.servers import Away
from tests.waiting import round_trip, until
from tracker_daemon import metrics
from tracker_daemon.config import NatsSettings, load
from tracker_daemon.consumer import JetStreamConsumer, connect, connection, disconnect, finish, reporter
from tracker_daemon.embedded import NatsServer
from tracker_daemon.errors import ConnectionLost, SettingsError, TrackerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PASSWORD = "s3cret"


def settings_for(server: NatsServer, **given: Any) -> NatsSettings:
    overrides = {
        f"nats.{key}": str(value)
        for key, value in ({"servers": server.url, "stream_max_bytes": "1MiB"} | given).items()
    }
    return load(overrides=overrides, environ={}).nats


async def consumes(settings: NatsSettings) -> None:
    """Prove that a login may do all that the daemon does: make the stream, take a message, acknowledge."""
    inbox = Inbox()
    client = await connect(settings, lambda _: None, patient=False)
    defects: list[Exception] = []
    consumer = JetStreamConsumer(client, settings, inbox.receive, inbox.room, defects.append)
    try:
        await consumer.start()
        await until(lambda: consumer.attached)
        await client.jetstream().publish(settings.decisions_subject, b"1")
        await inbox.until(1)
        await consumer.ack(inbox.take())
    finally:
        await consumer.stop()
        await disconnect(client)


async def refusal(settings: NatsSettings) -> str:
    """The one sentence in which connecting fails."""
    with pytest.raises(Unavailable) as caught:
        await connect(settings, lambda _: None, patient=False)
    return str(caught.value)


@pytest.fixture
def server(data_dir: Path) -> Iterator[NatsServer]:
    """A server of the test's own, which it gives options and starts."""
    server = NatsServer(data_dir)
    yield server
    server.stop()


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """Return a folder with `ca.pem` of an authority; `server.pem` and `client.pem` are vouched for by it."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "server.pem"))
    ca.issue_cert("tracker@example.org").private_key_and_cert_chain_pem.write_to_path(
        str(tmp_path / "client.pem")
    )
    return tmp_path


def tls_options(folder: Path) -> str:
    """Configuration of a server that asks every client for a certificate."""
    return f"""
        tls {{
            cert_file: "{folder / "server.pem"}"
            key_file: "{folder / "server.pem"}"
            ca_file: "{folder / "ca.pem"}"
            verify: true
        }}
    """


async def test_user_and_password_log_in(server: NatsServer) -> None:
    server.options = f"authorization {{ user: tracker, password: {PASSWORD} }}"
    server.start()
    await consumes(settings_for(server, user="tracker", password=PASSWORD))
    for login in ({}, {"user": "tracker", "password": "wr0ng"}, {"token": "wr0ng"}):
        said = await refusal(settings_for(server, **login))
        assert said == f"NATS at {server.url}: nats: 'Authorization Violation'"


async def test_user_and_password_in_the_url_log_in_and_are_never_said(server: NatsServer) -> None:
    server.options = f"authorization {{ user: tracker, password: {PASSWORD} }}"
    server.start()
    address = f"127.0.0.1:{server.port}"
    with capture_logs() as lines:
        await consumes(settings_for(server, servers=f"nats://tracker:{PASSWORD}@{address}"))
        said = await refusal(settings_for(server, servers=f"nats://tracker:wr0ng@{address}"))
    assert said == f"NATS at {address}: nats: 'Authorization Violation'"
    assert PASSWORD not in str(lines)
    assert "wr0ng" not in str(lines)


async def test_a_token_logs_in(server: NatsServer) -> None:
    server.options = f"authorization {{ token: {PASSWORD} }}"
    server.start()
    await consumes(settings_for(server, token=PASSWORD))
    assert "Authorization Violation" in await refusal(settings_for(server, token="wr0ng"))


async def test_an_nkey_seed_logs_in(server: NatsServer, tmp_path: Path) -> None:
    user, stranger = new_key(nkeys.PREFIX_BYTE_USER), new_key(nkeys.PREFIX_BYTE_USER)
    server.options = f"authorization {{ users: [ {{ nkey: {public(user)} }} ] }}"
    server.start()
    seed, other_seed = tmp_path / "seed", tmp_path / "other_seed"
    seed.write_bytes(user.seed + b"\n")
    other_seed.write_bytes(stranger.seed)
    await consumes(settings_for(server, nkey_seed_file=seed))
    said = await refusal(settings_for(server, nkey_seed_file=other_seed))
    assert said == f"NATS at {server.url}: nats: 'Authorization Violation'"


async def test_the_credentials_of_an_operators_user_log_in(server: NatsServer, tmp_path: Path) -> None:
    operator = Operator()
    server.options = operator.options
    server.start()
    await consumes(settings_for(server, creds_file=operator.write_creds(tmp_path / "user.creds")))
    stranger = Operator().write_creds(tmp_path / "stranger.creds")
    said = await refusal(settings_for(server, creds_file=stranger))
    assert said == f"NATS at {server.url}: nats: 'Authorization Violation'"


@pytest.mark.timeout(30)
@pytest.mark.parametrize("setting", ["creds_file", "nkey_seed_file"])
@pytest.mark.parametrize("text", ["SUAnotaseed\n", "-----BEGIN USER NKEY SEED-----\n{seed}\n---\n", ""])
async def test_a_file_that_holds_no_login_is_refused_without_a_word_of_it(
    server: NatsServer, tmp_path: Path, setting: str, text: str
) -> None:
    server.options = Operator().options
    server.start()
    file = tmp_path / "login"
    file.write_text(text.format(seed=new_key(nkeys.PREFIX_BYTE_USER).seed.decode()))
    with pytest.raises(TrackerError) as caught:
        await connect(settings_for(server, **{setting: file}), lambda _: None, patient=False)
    assert "SUA" not in str(caught.value)


@pytest.mark.timeout(30)
@pytest.mark.parametrize("patient", [True, False])
@pytest.mark.parametrize(
    ("names", "setting"),
    [
        (["creds_file"], "TRACKER_NATS_CREDS_FILE"),
        (["nkey_seed_file"], "TRACKER_NATS_NKEY_SEED_FILE"),
        (["tls_ca_file"], "TRACKER_NATS_TLS_CA_FILE"),
        (["tls_cert_file", "tls_key_file"], "TRACKER_NATS_TLS_CERT_FILE or _KEY_FILE"),
    ],
)
async def test_a_file_that_cannot_be_read_is_named_by_its_own_setting(
    nats_server: NatsServer, tmp_path: Path, names: list[str], setting: str, patient: bool
) -> None:
    """A daemon that waited long for its database finds a file gone that was there at its start."""
    file = tmp_path / "file"
    file.touch()
    settings = settings_for(nats_server, **dict.fromkeys(names, file))
    file.unlink()
    with pytest.raises(SettingsError) as caught:
        await connect(settings, lambda _: None, patient=patient)
    why = "No such file or directory"
    assert caught.value.mistakes == [f"{setting}: the file that it names cannot be used: {why}"]


async def test_both_sides_show_certificates(server: NatsServer, certificates: Path) -> None:
    server.options = tls_options(certificates)
    server.start()
    files = {"tls_ca_file": "ca.pem", "tls_cert_file": "client.pem", "tls_key_file": "client.pem"}
    for scheme in ("nats", "tls"):
        servers = f"{scheme}://127.0.0.1:{server.port}"
        await consumes(
            settings_for(server, servers=servers, **{key: certificates / name for key, name in files.items()})
        )
    assert server.url in await refusal(settings_for(server, tls_ca_file=certificates / "ca.pem"))


async def test_a_server_that_another_authority_vouches_for_is_refused(
    server: NatsServer, certificates: Path
) -> None:
    server.options = tls_options(certificates)
    server.start()
    trustme.CA().cert_pem.write_to_path(str(certificates / "other.pem"))
    own = {"tls_cert_file": certificates / "client.pem", "tls_key_file": certificates / "client.pem"}
    for authority in ({"tls_ca_file": certificates / "other.pem"}, {}):
        said = await refusal(settings_for(server, **own, **authority))
        assert said.startswith(f"NATS at {server.url}: ")
        assert "no CA that is trusted here has signed it" in said


@pytest.mark.timeout(30)
@pytest.mark.parametrize("patient", [True, False])
async def test_an_authority_file_that_holds_no_certificate_is_not_worth_waiting_for(
    nats_server: NatsServer, tmp_path: Path, patient: bool
) -> None:
    file = tmp_path / "ca.pem"
    file.write_text("no certificate")
    with pytest.raises(TrackerError):
        await connect(settings_for(nats_server, tls_ca_file=file), lambda _: None, patient=patient)


async def test_a_server_that_is_not_there_is_named(server: NatsServer) -> None:
    server.start()
    server.stop()
    said = await refusal(settings_for(server))
    assert said.startswith(f"NATS at {server.url}: ")
    assert "Connect call failed" in said


async def test_the_patient_wait_for_a_server_that_comes_later(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through several attempts, none of which counts as a connection that was lost."""
    monkeypatch.setattr(connection, "ATTEMPT_SECONDS", 0.5)
    server.start()
    server.stop()
    metrics.nats_connected.set(0)
    lost: list[ConnectionLost] = []
    with capture_logs() as lines:
        connecting = asyncio.create_task(connect(settings_for(server), lost.append))
        await until(lambda: sum("Connect call failed" in line.get("reason", "") for line in lines) >= 2)
        server.start()
        client = await connecting
    assert client.is_connected
    assert lost == []
    assert metrics.nats_connected._value.get() == 1
    await disconnect(client)
    assert metrics.nats_connected._value.get() == 0


async def test_the_patient_outlive_a_certificate_that_is_wrong_for_a_while(
    server: NatsServer, certificates: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "ATTEMPT_SECONDS", 2)
    server.options = tls_options(certificates)
    right = (certificates / "server.pem").read_bytes()
    trustme.CA().issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(
        str(certificates / "server.pem")
    )
    server.start()
    files = {"tls_ca_file": "ca.pem", "tls_cert_file": "client.pem", "tls_key_file": "client.pem"}
    settings = settings_for(server, **{key: certificates / name for key, name in files.items()})
    lost: list[ConnectionLost] = []
    connecting = asyncio.create_task(connect(settings, lost.append))
    with capture_logs() as lines:
        await until(lambda: any("no CA that is" in line.get("reason", "") for line in lines))
    server.stop()
    (certificates / "server.pem").write_bytes(right)
    server.start()
    client = await asyncio.wait_for(connecting, 30)
    assert client.is_connected
    assert lost == []
    await disconnect(client)


async def test_expired_credentials_end_the_connection_for_good(server: NatsServer, tmp_path: Path) -> None:
    """A client that closed itself must be told of: it would look alive and consume nothing."""
    operator = Operator()
    server.options = operator.options
    server.start()
    creds = operator.write_creds(tmp_path / "user.creds", expires_in=2)
    lost: asyncio.Future[ConnectionLost] = asyncio.get_running_loop().create_future()
    client = await connect(settings_for(server, creds_file=creds), lost.set_result)
    assert str(await asyncio.wait_for(lost, 30)) == (
        "the NATS client closed its connection: nats: user authentication expired"
    )
    await disconnect(client)


# A file of credentials that changes while the daemon runs.


async def test_credentials_are_read_again_at_each_reconnect(server: NatsServer, tmp_path: Path) -> None:
    """Those of the first connection are worth nothing to the server that comes back."""
    first, second = Operator(), Operator()
    server.options = first.options
    server.start()
    creds = first.write_creds(tmp_path / "user.creds")
    client = await connect(settings_for(server, creds_file=creds), lambda _: None)
    server.stop()
    await until(lambda: not client.is_connected)
    server.options = second.options
    second.write_creds(creds)
    server.start()
    await until(lambda: client.is_connected)
    await disconnect(client)


@pytest.mark.parametrize("lines", [0, 2, 6])
async def test_credentials_that_are_half_written_at_a_reconnect_are_waited_for(
    server: NatsServer, tmp_path: Path, lines: int
) -> None:
    """An empty file, one that ends after the JWT, one that ends within the seed: none ends the attempts."""
    operator = Operator()
    server.options = operator.options
    server.start()
    creds = operator.write_creds(tmp_path / "user.creds")
    whole = creds.read_text()
    client = await connect(settings_for(server, creds_file=creds), lambda _: None)
    with capture_logs() as said:
        server.stop()
        await until(lambda: not client.is_connected)
        creds.write_text("\n".join(whole.split("\n")[:lines]))
        server.start()
        await until(lambda: any("TRACKER_NATS_CREDS_FILE" in line.get("reason", "") for line in said))
        creds.write_text(whole)
        await until(lambda: client.is_connected)
    assert "SUA" not in str(said)
    await disconnect(client)


# A client that is dead and looks alive.


@pytest.fixture
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client that pings, tries again, and is given up, sooner."""
    for pause in ("PING_INTERVAL_SECONDS", "RECONNECT_WAIT_SECONDS"):
        monkeypatch.setattr(connection, pause, 0.25)
    monkeypatch.setattr(reporter, "LOOK_SECONDS", 0.25)
    monkeypatch.setattr(reporter, "DEAD_SECONDS", 1)


@pytest.mark.usefixtures("_impatient")
async def test_a_client_in_which_nobody_reads_is_given_up(nats_server: NatsServer) -> None:
    """As nats-py's read loop ends on an exception that it does not foresee, and with it the ping loop."""
    lost: list[ConnectionLost] = []
    client = await connect(settings_for(nats_server), lost.append)
    assert client._reading_task is not None
    assert client._ping_interval_task is not None
    client._reading_task.cancel()
    client._ping_interval_task.cancel()
    await until(lambda: lost)
    assert client.is_connected, "it looks alive"
    assert str(lost[0]).startswith("the NATS client has heard nothing for 1 s")
    await disconnect(client)


async def test_a_defect_of_the_watch_is_told(
    nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when nats-py no longer counts its PONGs: without its watch a dead client would look alive."""
    lost: list[Exception] = []

    def broken(_: object) -> None:
        raise AttributeError("_pongs_received")

    monkeypatch.setattr(reporter.Reporter, "_heard", broken)
    client = await connect(settings_for(nats_server), lost.append)
    await until(lambda: lost)
    assert isinstance(lost[0], AttributeError)
    await disconnect(client)


@pytest.mark.usefixtures("_impatient")
async def test_a_client_that_stops_trying_to_reconnect_is_given_up(server: NatsServer) -> None:
    lost: list[ConnectionLost] = []
    server.start()
    client = await connect(settings_for(server), lost.append)
    server.stop()
    await until(lambda: client.is_reconnecting)
    assert client._reconnection_task is not None
    client._reconnection_task.cancel()
    server.start()
    await until(lambda: lost)
    assert not client.is_closed, "it would stay away for ever"
    assert str(lost[0]).startswith("the NATS client has heard nothing for 1 s")
    await disconnect(client)


@pytest.mark.usefixtures("_impatient")
async def test_a_client_that_hears_nothing_but_answers_to_its_pings_is_alive(
    nats_server: NatsServer,
) -> None:
    """As when JetStream has no leader for long: an outage elsewhere, and no reason to leave."""
    lost: list[ConnectionLost] = []
    client = await connect(settings_for(nats_server), lost.append)
    await until(lambda: client._pongs_received >= 8)
    assert lost == []
    await disconnect(client)


@pytest.mark.usefixtures("_impatient")
async def test_a_server_that_is_away_for_long_is_waited_for(server: NatsServer) -> None:
    server.start()
    lost: list[ConnectionLost] = []
    client = await connect(settings_for(server), lost.append)
    server.stop()
    await until(lambda: client.server_pool[0].reconnects >= 8)
    server.start()
    await until(lambda: client.is_connected)
    assert lost == []
    await disconnect(client)


@pytest.mark.usefixtures("_impatient")
async def test_a_server_that_is_frozen_for_long_is_waited_for(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ping loop gives the connection up; attempts to make a new one fail, again and again."""
    monkeypatch.setattr(reporter, "DEAD_SECONDS", 5)  # nats-py gives up an attempt after two
    server.start()
    lost: list[ConnectionLost] = []
    client = await connect(settings_for(server), lost.append)
    os.kill(server.pid, signal.SIGSTOP)
    try:
        await until(lambda: client.server_pool[0].reconnects >= 3)
    finally:
        os.kill(server.pid, signal.SIGCONT)
    await until(lambda: client.is_connected)
    assert lost == []
    await disconnect(client)


async def test_an_answer_that_comes_too_late_for_an_end_breaks_nothing(
    server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What has been received is still to be acknowledged then."""
    monkeypatch.setattr(connection, "FINISH_SECONDS", 0.1)
    server.start()
    with capture_logs() as lines:
        client = await connect(settings_for(server), lambda _: None, patient=False)
        async with Away(server, "frozen"):
            await finish(client, [])
        await round_trip(client)
        await disconnect(client)
    assert not [line for line in lines if line["log_level"] == "error"]
