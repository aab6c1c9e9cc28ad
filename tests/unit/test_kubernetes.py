"""The manifests fit Kubernetes' own schemas, each other, and the daemon."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest
import yaml

from tracker_daemon import __version__
from tracker_daemon.config import Settings, load

FOLDER = Path(__file__).parents[2] / "deploy" / "kubernetes"
MANIFESTS = {path.stem: path for path in FOLDER.glob("*.yaml")}


def manifest(name: str) -> dict[str, Any]:
    """Parse one manifest."""
    parsed: dict[str, Any] = yaml.safe_load(MANIFESTS[name].read_text("utf-8"))
    return parsed


@pytest.fixture
def pod() -> dict[str, Any]:
    """The Deployment's template of a pod."""
    template: dict[str, Any] = manifest("deployment")["spec"]["template"]
    return template


@pytest.fixture
def container(pod: dict[str, Any]) -> dict[str, Any]:
    """The one container of a pod."""
    [container] = pod["spec"]["containers"]
    assert isinstance(container, dict)
    return container


# The first in which every field here is stable, and the newest whose schemas are installed.
@pytest.mark.parametrize("version", ["1.31", kubernetes_validate.latest_version()])
@pytest.mark.parametrize("name", sorted(MANIFESTS.keys() - {"servicemonitor"}))
def test_kubernetes_knows_every_field(name: str, version: str) -> None:
    kubernetes_validate.validate(manifest(name), version, strict=True)


def test_the_image_is_this_version_as_the_compose_file_builds_it(container: dict[str, Any]) -> None:
    compose = yaml.safe_load((FOLDER.parents[1] / "docker-compose.yml").read_text("utf-8"))
    built = compose["services"]["tracker-daemon"]["image"]
    assert container["image"] == built == f"tracker-daemon:{__version__}"


def test_every_selector_finds_the_pods(pod: dict[str, Any]) -> None:
    labels = pod["metadata"]["labels"]
    assert manifest("deployment")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("service")["spec"]["selector"] == labels
    assert manifest("poddisruptionbudget")["spec"]["selector"]["matchLabels"] == labels
    [spread] = pod["spec"]["topologySpreadConstraints"]
    assert spread["labelSelector"]["matchLabels"] == labels


def test_the_service_monitor_finds_the_service_and_its_port() -> None:
    service, monitor = manifest("service"), manifest("servicemonitor")["spec"]
    assert monitor["selector"]["matchLabels"] == service["metadata"]["labels"]
    [port], [endpoint] = service["spec"]["ports"], monitor["endpoints"]
    assert endpoint["port"] == port["name"]


def test_the_rules_find_the_daemons_under_the_name_of_the_service() -> None:
    """Which is what the Prometheus Operator calls the job."""
    rules = (FOLDER.parent / "prometheus" / "rules" / "tracker.yml").read_text("utf-8")
    assert set(re.findall(r'job="([^"]+)"', rules)) == {manifest("service")["metadata"]["name"]}


def test_service_and_probes_use_the_port_on_which_the_daemon_answers(container: dict[str, Any]) -> None:
    [port], [served] = container["ports"], manifest("service")["spec"]["ports"]
    assert port["containerPort"] == served["port"] == Settings().http.port
    probes = {name: container[f"{name}Probe"]["httpGet"] for name in ("liveness", "readiness")}
    assert {probe["port"] for probe in probes.values()} == {served["targetPort"]} == {port["name"]}
    assert {name: probe["path"] for name, probe in probes.items()} == {
        "liveness": "/healthz",
        "readiness": "/readyz",
    }


def test_the_settings_load_with_the_secret_in_its_file(
    pod: dict[str, Any], container: dict[str, Any], tmp_path: Path
) -> None:
    """As mounted: the file of the DSN is a key of the Secret, in the folder of the mount."""
    environment = {variable["name"]: variable["value"] for variable in container["env"]}
    [mount], [volume] = container["volumeMounts"], pod["spec"]["volumes"]
    assert mount["name"] == volume["name"]
    assert volume["secret"].keys() == {"secretName", "defaultMode"}
    file = Path(environment["TRACKER_POSTGRES_DSN_FILE"])
    assert file.parent == Path(mount["mountPath"])
    (tmp_path / file.name).write_text("postgresql://tracker:secret@db/tracker\n")
    settings = load(environ=environment | {"TRACKER_POSTGRES_DSN_FILE": str(tmp_path / file.name)})
    assert settings.postgres.dsn.get_secret_value() == "postgresql://tracker:secret@db/tracker"


def test_nothing_else_in_the_cluster_becomes_a_setting(pod: dict[str, Any]) -> None:
    """A Service called tracker would give every pod TRACKER_SERVICE_HOST, which `run` refuses."""
    assert pod["spec"]["enableServiceLinks"] is False


def test_kubernetes_gives_the_drain_its_time(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """Also that of a daemon of which a part has died, whose liveness fails from then on."""
    enough = Settings().shutdown.timeout_seconds + 5
    probe = container["livenessProbe"]
    assert pod["spec"]["terminationGracePeriodSeconds"] >= enough
    assert probe["periodSeconds"] * probe["failureThreshold"] >= enough


def test_the_pod_may_do_nothing_that_it_need_not(pod: dict[str, Any], container: dict[str, Any]) -> None:
    """The restricted Pod Security Standard, a read-only root, and no token of the API server."""
    user = pod["spec"]["securityContext"]
    assert (user["runAsNonRoot"], user["runAsUser"]) == (True, 10001)
    assert user["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert pod["spec"]["automountServiceAccountToken"] is False
