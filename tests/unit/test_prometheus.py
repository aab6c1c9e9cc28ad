"""The rules for Prometheus: promtool takes them, each alert fires when it should, each metric exists."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client import generate_latest

from tracker_daemon import metrics
from tracker_daemon.scores.changes import EVIDENCE

TOP = Path(__file__).parents[2]
RULES = TOP / "deploy/prometheus/rules/tracker.yml"
TESTS = TOP / "tests/prometheus/tracker.test.yml"

PROMTOOL = shutil.which("promtool") or ""
needs_promtool = pytest.mark.skipif(not PROMTOOL, reason="needs promtool (Debian: prometheus)")


def promtool(*arguments: str | Path, stdin: bytes = b"") -> None:
    """Run it; what it says is the failure."""
    found = subprocess.run([PROMTOOL, *arguments], input=stdin, capture_output=True, check=False)
    assert found.returncode == 0, (found.stdout + found.stderr).decode()


@needs_promtool
def test_promtool_finds_no_fault_in_the_rules() -> None:
    promtool("check", "rules", RULES)


@needs_promtool
def test_each_alert_fires_when_it_should_and_not_before() -> None:
    promtool("test", "rules", TESTS)


@needs_promtool
def test_promtool_finds_no_fault_in_the_metrics() -> None:
    promtool("check", "metrics", stdin=generate_latest(metrics.registry))


def alerts() -> list[dict[str, object]]:
    """Every rule that alerts."""
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def test_every_alert_has_a_test() -> None:
    tested = TESTS.read_text().split("- name: down", 1)[1]
    assert [alert["alert"] for alert in alerts() if str(alert["alert"]) not in tested] == []


def test_every_metric_of_the_rules_exists() -> None:
    exposed = {
        name
        for family in metrics.registry.collect()
        for name in (family.name, *(family.name + end for end in ("_total", "_bucket", "_sum", "_count")))
    }
    groups = str(yaml.safe_load(RULES.read_text())["groups"])
    used = set(re.findall(r"\b(?:tracker|process)_\w+", groups))
    assert used
    assert used <= exposed


def test_prometheus_wants_as_much_evidence_as_the_daemon() -> None:
    [low] = [alert for alert in alerts() if alert["alert"] == "TrackerLowSuccess"]
    assert str(low["expr"]).endswith(f" and tracker:resolved_decisions:last5m >= {EVIDENCE}")
