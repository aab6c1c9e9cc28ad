"""The wheel, built from the checkout, unpacked somewhere and used from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel once."""
    folder = tmp_path_factory.mktemp("dist")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    [wheel] = folder.glob("*.whl")
    return wheel


def test_the_wheel_holds_the_package_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        entry_points = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
        assert "tracker-daemon = tracker_daemon.cli:main" in archive.read(entry_points).decode()
    package = {name for name in names if not name.split("/")[0].endswith(".dist-info")}
    checkout = {
        file.relative_to(ROOT).as_posix()
        for folder in ("tracker_daemon", "tracker_daemon/schemas")  # the second is a link
        for file in (ROOT / folder).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert package == checkout
    assert package >= {
        "tracker_daemon/py.typed",
        "tracker_daemon/schemas/sql/001_decisions.sql",
        "tracker_daemon/schemas/decision.schema.json",
        "tracker_daemon/schemas/outcome.schema.json",
        "tracker_daemon/schemas/asyncapi.yaml",
        "tracker_daemon/demo/stocks.csv.gz",
    }


def test_the_unpacked_wheel_finds_what_it_needs_in_itself(wheel: Path, tmp_path: Path) -> None:
    """Migrations, demo data, version and command line, from a folder that no checkout is near."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "unpacked")
    (tmp_path / "elsewhere").mkdir()
    script = """
import tracker_daemon
from datetime import UTC, datetime
from importlib.metadata import distribution
from tracker_daemon.demo.market import load
from tracker_daemon.migrate import migrations

print(tracker_daemon.__file__)
print(distribution("tracker-daemon").locate_file(""))
print(len(migrations()), sum("CREATE TABLE IF NOT EXISTS llm_decisions" in m.sql for m in migrations()))
print(bool(load(datetime.now(UTC))))
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "unpacked")}

    def python(*arguments: str) -> list[str]:
        ended = subprocess.run(
            [sys.executable, *arguments],
            cwd=tmp_path / "elsewhere",
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert ended.returncode == 0, ended.stderr
        return ended.stdout.splitlines()

    package = tmp_path / "unpacked/tracker_daemon"
    scripts = len(list((ROOT / "schemas/sql").glob("*.sql")))
    assert python("-c", script) == [
        str(package / "__init__.py"),
        str(package.parent),
        f"{scripts} 1",
        "True",
    ]
    [version] = python("-m", "tracker_daemon", "--version")
    assert wheel.name.startswith(f"tracker_daemon-{version}-")
