"""The unit as systemd itself reads it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "tracker-daemon.service"
# Keys that came with systemd 254, which older ones pass over, and the program, which is not installed here.
EXPECTED = ("RestartSteps", "RestartMaxDelaySec", "/opt/tracker-daemon/bin/tracker-daemon is not executable")

pytestmark = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed"
)


def analyze(*arguments: str) -> str:
    """What systemd-analyze says of the unit, on both outputs."""
    command = ["systemd-analyze", *arguments, str(UNIT)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_systemd_finds_no_fault_in_the_unit() -> None:
    said = analyze("verify", "--man=no").splitlines()
    assert [line for line in said if not any(text in line for text in EXPECTED)] == []


def test_the_units_user_is_the_one_that_sysusers_makes(tmp_path: Path) -> None:
    command = ["systemd-sysusers", "--dry-run", f"--root={tmp_path}", str(UNIT.with_suffix(".sysusers"))]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    [user] = re.findall(r"Creating user '([^']+)'", done.stdout + done.stderr)
    assert f"\nUser={user}\n" in UNIT.read_text("utf-8")


def test_the_unit_is_hardened() -> None:
    overall = re.search(r"Overall exposure level for \S+: ([0-9.]+)", analyze("security", "--offline=true"))
    assert overall is not None
    assert float(overall[1]) <= 2.0
