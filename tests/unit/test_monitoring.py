"""What Prometheus scrapes and Grafana asks is what the compose file runs."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

TOP = Path(__file__).parents[2]
PROMETHEUS = TOP / "deploy" / "prometheus" / "prometheus.yml"
PROVISIONING = TOP / "deploy" / "grafana" / "provisioning"


def document(path: Path) -> dict[str, Any]:
    """Parse a YAML file that holds one mapping."""
    parsed: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return parsed


SERVICES = document(TOP / "docker-compose.yml")["services"]
SOURCES = {
    source["name"]: source for source in document(PROVISIONING / "datasources/tracker.yaml")["datasources"]
}


def published(service: str) -> str:
    """A service of the compose file and the port that it listens on, which is the published one too."""
    [port] = SERVICES[service]["ports"]
    return f"{service}:{port.rpartition(':')[2]}"


def test_prometheus_takes_its_configuration() -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed")
    command = [promtool, "check", "config", str(PROMETHEUS)]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_prometheus_scrapes_the_daemon_where_it_listens() -> None:
    [job] = document(PROMETHEUS)["scrape_configs"]
    assert job["job_name"] == "tracker-daemon"
    assert job["static_configs"] == [{"targets": [published("tracker-daemon")]}]


def test_grafana_asks_prometheus_as_often_as_that_scrapes() -> None:
    source = SOURCES["Prometheus"]
    assert source["url"] == f"http://{published('prometheus')}"
    assert source["jsonData"]["timeInterval"] == document(PROMETHEUS)["global"]["scrape_interval"]


def test_grafana_reads_the_daemons_database_with_a_role_that_only_reads() -> None:
    source, owner = SOURCES["PostgreSQL"], SERVICES["postgres"]["environment"]
    assert source["jsonData"]["database"] == owner["POSTGRES_DB"]
    assert source["user"] == "tracker_reader" != owner["POSTGRES_USER"]
    assert source["secureJsonData"]["password"] == "$READER_PASSWORD"
    assert SERVICES["grafana"]["environment"]["READER_PASSWORD"] == owner["READER_PASSWORD"]


def test_grafana_looks_for_dashboards_where_the_folder_is_mounted() -> None:
    [provider] = document(PROVISIONING / "dashboards/tracker.yaml")["providers"]
    mounted = {volume.split(":")[1]: volume.split(":")[0] for volume in SERVICES["grafana"]["volumes"]}
    assert (TOP / mounted[provider["options"]["path"]]).samefile(TOP / "deploy/grafana/dashboards")
