"""What `deploy/` and the compose file say agrees with the program and with the files' own formats."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tracker_daemon.config import HttpSettings, Settings, load
from tracker_daemon.health import serving

TOP = Path(__file__).parents[2]
DEPLOY = TOP / "deploy"
COMPOSE = TOP / "docker-compose.yml"
UNIT = DEPLOY / "systemd" / "tracker-daemon.service"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text("utf-8").replace("\\\n", " ")
SECRETS = {
    f"TRACKER_{name}_FILE"
    for name in (
        "NATS_PASSWORD",
        "NATS_TOKEN",
        "POSTGRES_DSN",
        "POSTGRES_MIGRATE_DSN",
        "EMBEDDING_KEY",
        "QUERY_DSN",
    )
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load(COMPOSE.read_text("utf-8"))
    return document


@pytest.fixture(scope="module")
def unit() -> dict[str, list[str]]:
    """The directives of the unit's sections, each with all its values."""
    found: dict[str, list[str]] = {}
    for line in UNIT.read_text("utf-8").splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def environment_file(path: Path) -> dict[str, str]:
    lines = path.read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


def instructions(keyword: str) -> list[str]:
    return re.findall(rf"(?m)^\s*{keyword}\s+(.+)$", DOCKERFILE)


# Names


@pytest.mark.parametrize(
    "file",
    [COMPOSE, TOP / "README.md", *sorted(p for p in DEPLOY.rglob("*") if p.is_file())],
    ids=lambda path: str(path.relative_to(TOP)),
)
def test_every_setting_named_in_a_file_exists(file: Path) -> None:
    named = set(re.findall(r"TRACKER_[A-Z_]*[A-Z]", file.read_text("utf-8")))
    assert named <= {name for name, _ in Settings().listing()} | SECRETS


# Compose


def test_the_compose_file_follows_the_specification() -> None:
    command = [
        sys.executable,
        "-m",
        "check_jsonschema",
        "--builtin-schema",
        "vendor.compose-spec",
        str(COMPOSE),
    ]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_images_of_others_are_pinned_to_a_full_version(compose: dict[str, Any]) -> None:
    ours = compose["services"]["tracker-daemon"]["image"]
    images = [service["image"] for service in compose["services"].values() if service["image"] != ours]
    assert len(images) == 4
    assert all(re.search(r":v?\d+\.\d+\.\d+(-|$)", image) for image in images)


def test_ports_are_published_on_the_loopback_address_alone(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


@pytest.mark.parametrize(
    ("service", "needed"),
    [
        ("tracker-daemon", {"nats", "postgres"}),
        ("demo", {"tracker-daemon"}),
        ("grafana", {"postgres", "prometheus"}),
    ],
)
def test_a_service_waits_until_those_that_it_needs_are_healthy(
    compose: dict[str, Any], service: str, needed: set[str]
) -> None:
    dependencies = compose["services"][service]["depends_on"]
    assert dependencies == {name: {"condition": "service_healthy"} for name in needed}


def test_the_servers_can_do_what_the_daemon_needs(compose: dict[str, Any]) -> None:
    """JetStream, with its files on the volume; vectors."""
    nats, postgres = compose["services"]["nats"], compose["services"]["postgres"]
    assert nats["command"][:3] == ["-js", "-sd", "/data"]
    assert "nats:/data" in nats["volumes"]
    assert postgres["image"].startswith("pgvector/pgvector:")


@pytest.mark.parametrize("service", ["tracker-daemon", "demo"])
def test_a_container_of_ours_may_write_nothing_and_do_little(compose: dict[str, Any], service: str) -> None:
    found = compose["services"][service]
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]
    assert "volumes" not in found


def mounts(compose: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What is mounted from where to where, and how, in all services."""
    volumes = [volume for service in compose["services"].values() for volume in service.get("volumes", [])]
    return [(*volume.split(":"), "rw")[:3] for volume in volumes]


def test_data_outlives_the_containers(compose: dict[str, Any]) -> None:
    written = {source for source, _, how in mounts(compose) if how == "rw"}
    assert written == compose["volumes"].keys() == {"nats", "postgres", "prometheus", "grafana"}


def test_what_is_mounted_from_the_checkout_is_there_and_stays_as_it_is(compose: dict[str, Any]) -> None:
    """Of a missing path Docker would make an empty folder."""
    mounted = [(TOP / source, how) for source, _, how in mounts(compose) if source.startswith(".")]
    assert len(mounted) == 7
    assert all(path.exists() and how == "ro" for path, how in mounted)


def test_no_password_stands_in_the_compose_file(compose: dict[str, Any]) -> None:
    """Each comes from the environment; what stands in for it there says that it is none."""
    given = {
        name: value
        for service in compose["services"].values()
        for name, value in service.get("environment", {}).items()
        if "PASSWORD" in name
    }
    variables = {re.sub(r"\$\{(\w+):-tracker\}", r"\1", value) for value in given.values()}
    assert variables == {"POSTGRES_PASSWORD", "READER_PASSWORD", "GRAFANA_PASSWORD"}


def test_every_service_comes_back_and_says_whether_it_is_healthy(compose: dict[str, Any]) -> None:
    """But the demo, which ends; the daemon's check is the image's."""
    for name, service in compose["services"].items():
        ends = "profiles" in service
        assert service["restart"] == ("on-failure" if ends else "unless-stopped")
        assert ends or "build" in service or service["healthcheck"]["test"], name


def test_the_demo_is_asked_for_and_publishes_to_the_nats_of_the_daemon(compose: dict[str, Any]) -> None:
    demo, daemon = compose["services"]["demo"], compose["services"]["tracker-daemon"]
    assert (demo["profiles"], demo["image"]) == (["demo"], daemon["image"])
    assert demo["command"][:3] == ["demo", "--nats-url", daemon["environment"]["TRACKER_NATS_SERVERS"]]


def test_the_settings_of_the_compose_file_load_and_match_its_services(compose: dict[str, Any]) -> None:
    services = compose["services"]
    environment = services["tracker-daemon"]["environment"]
    settings = load(environ=environment)
    assert settings.nats.servers == ("nats://nats:4222",)
    owner = services["postgres"]["environment"]
    assert settings.postgres.dsn.get_secret_value() == (
        f"postgresql://{owner['POSTGRES_USER']}@postgres:5432/{owner['POSTGRES_DB']}"
    )
    assert environment["PGPASSWORD"] == owner["POSTGRES_PASSWORD"]


def test_compose_gives_the_drain_its_time(compose: dict[str, Any]) -> None:
    grace = compose["services"]["tracker-daemon"]["stop_grace_period"]
    assert int(grace.removesuffix("s")) >= Settings().shutdown.timeout_seconds + 5


def test_compose_builds_the_dockerfile(compose: dict[str, Any]) -> None:
    build = compose["services"]["tracker-daemon"]["build"]
    assert (TOP / build["context"] / build["dockerfile"]).samefile(DEPLOY / "Dockerfile")


# Dockerfile


def test_what_the_image_is_built_from_exists_and_is_sent_to_the_builder() -> None:
    copied = {
        source
        for arguments in instructions("COPY")
        if "--from=" not in arguments
        for source in arguments.split()[:-1]
    }
    sent = {line[1:] for line in (TOP / ".dockerignore").read_text("utf-8").splitlines() if line[:1] == "!"}
    assert copied == sent
    assert all((TOP / source).exists() for source in copied)


def test_the_image_holds_all_that_the_wheel_is_built_from() -> None:
    project = tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))
    needed = {
        "pyproject.toml",
        project["project"]["readme"],
        *project["project"]["license-files"],
        *project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"],
        (TOP / "tracker_daemon" / "schemas").readlink().name,
    }
    assert needed <= set(" ".join(instructions("COPY")).split())


def test_what_builds_the_image_is_not_in_it() -> None:
    """Of the stage that builds only the environment is taken, which has no pip."""
    build, ships = instructions("FROM")
    assert build == f"{ships} AS build"
    _, last = DOCKERFILE.split(f"FROM {ships}\n")
    assert re.findall(r"COPY (.+)", last) == ["--from=build /opt/tracker-daemon /opt/tracker-daemon"]
    assert "python3 -m venv --without-pip /opt/tracker-daemon" in DOCKERFILE
    assert "pip" not in last


def test_the_container_listens_where_its_port_is_exposed() -> None:
    [port] = instructions("EXPOSE")
    assert int(port) == Settings().http.port
    assert f"'TRACKER_HTTP_PORT', {port})" in instructions("HEALTHCHECK")[0]
    assert "TRACKER_HTTP_HOST=0.0.0.0" in instructions("ENV")[0]


def test_the_container_is_not_root_and_hears_signals() -> None:
    assert instructions("USER") == ["10001:10001"]
    assert instructions("STOPSIGNAL") == ["SIGTERM"]
    assert [json.loads(text) for text in instructions("ENTRYPOINT")] == [["tini", "--", "tracker-daemon"]]


def test_the_image_is_made_of_hashed_files_alone() -> None:
    """Packages come from a lock file, or from the folder of wheels that was filled that way."""
    commands = [command for text in instructions("RUN") for command in text.split("&&") if "/pip " in command]
    assert len(commands) == 4
    for command in commands:
        hashed = "--require-hashes --requirement deploy/" in re.sub(r"\s+", " ", command)
        assert hashed or "--no-deps --no-index" in command or "--no-deps --no-build-isolation" in command


@pytest.mark.parametrize(
    "told",
    [
        r"PROVIDER=local needs: --build-arg LOCK=(\w+)",
        r"results need: --build-arg LOCK=(\w+)",
        r"(?m)^ARG LOCK=(\w+)$",
    ],
)
def test_with_or_without_an_extra_it_is_built_from_a_lock_that_is_sent(told: str) -> None:
    lock = re.search(told, DOCKERFILE)
    assert lock
    assert DOCKERFILE.count("deploy/${LOCK}.lock") == 1
    assert f"deploy/{lock[1]}.lock" in " ".join(instructions("COPY"))


async def test_the_health_check_tells_a_living_daemon_from_a_dead_one() -> None:
    [check] = [json.loads(text.partition("CMD ")[2]) for text in instructions("HEALTHCHECK")]

    def always() -> bool:
        return True

    async def exit_code(port: int) -> int:
        environment = os.environ | {"TRACKER_HTTP_PORT": str(port), "http_proxy": "http://127.0.0.1:1"}
        process = await asyncio.create_subprocess_exec(
            sys.executable, *check[1:], env=environment, stderr=asyncio.subprocess.DEVNULL
        )
        return await process.wait()

    async with serving(HttpSettings(port=0), dict, always) as port:
        assert await exit_code(port) == 0
    assert await exit_code(port) == 1
    async with serving(HttpSettings(port=0), dict, lambda: False) as port:
        assert await exit_code(port) == 1


def test_a_daemon_of_which_a_part_has_died_has_the_time_to_drain() -> None:
    """Its health check fails from then on, and whoever replaces what is unhealthy should not be quicker."""
    [arguments] = instructions("HEALTHCHECK")
    given = dict(re.findall(r"--(\w+)=(\d+)", arguments))
    assert int(given["interval"]) * int(given["retries"]) >= Settings().shutdown.timeout_seconds + 5


# systemd


def test_the_unit_gives_the_drain_its_time(unit: dict[str, list[str]]) -> None:
    assert int(unit["TimeoutStopSec"][0]) >= Settings().shutdown.timeout_seconds + 5


def test_the_unit_waits_for_the_word_of_a_daemon_and_restarts_one_that_hangs(
    unit: dict[str, list[str]],
) -> None:
    """A drain that takes its whole time is no hanging."""
    assert unit["Type"] == ["notify"]
    assert int(unit["WatchdogSec"][0]) > Settings().shutdown.timeout_seconds
    assert "AF_UNIX" in unit["RestrictAddressFamilies"][0].split()


def test_the_unit_lets_what_computes_embeddings_lower_its_priority(unit: dict[str, list[str]]) -> None:
    """That call is one of the @resources, which are taken away: of two lines the later one wins."""
    calls = unit["SystemCallFilter"]
    assert calls.index("setpriority") > calls.index("~@privileged @resources")


def test_the_unit_knows_the_exit_codes(unit: dict[str, list[str]]) -> None:
    assert unit["SuccessExitStatus"] == ["3"]
    assert unit["RestartPreventExitStatus"] == ["2"]
    assert unit["Restart"] == ["on-failure"]


def test_the_unit_is_started_again_for_ever_and_less_and_less_often(unit: dict[str, list[str]]) -> None:
    assert unit["StartLimitIntervalSec"] == ["0"]
    assert int(unit["RestartSteps"][0]) > 0
    assert int(unit["RestartSec"][0]) < int(unit["RestartMaxDelaySec"][0])


def test_the_units_credentials_are_found(unit: dict[str, list[str]], tmp_path: Path) -> None:
    for credential in unit["LoadCredential"]:
        (tmp_path / credential.partition(":")[0]).write_text(
            "postgresql://tracker_writer:secret@db/tracker\n"
        )
    settings = load(environ={"CREDENTIALS_DIRECTORY": str(tmp_path)})
    assert settings.postgres.dsn.get_secret_value() == "postgresql://tracker_writer:secret@db/tracker"


def test_the_unit_starts_the_program_with_the_files_of_the_examples(unit: dict[str, list[str]]) -> None:
    program, *arguments = unit["ExecStart"][0].split()
    assert (
        Path(program).name in tomllib.loads((TOP / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]
    )
    assert arguments[:2] == ["run", "--config"]
    for path in (arguments[2], unit["EnvironmentFile"][0].removeprefix("-")):
        assert (UNIT.parent / Path(path).name).exists()


def test_the_example_of_a_config_file_is_the_defaults() -> None:
    assert load(UNIT.with_suffix(".toml"), environ={}) == Settings()


def test_the_example_of_an_environment_file_loads() -> None:
    given = environment_file(UNIT.with_suffix(".env"))
    settings = dict(load(environ=given).listing())
    assert given
    assert given == {name: settings[name] for name in given}
