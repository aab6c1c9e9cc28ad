"""A newer version of the package: this one, with migrations that it does not know."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import tracker_daemon
from tests.acceptance.command import PATIENCE_SECONDS

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

EXPANDING = {
    "998_desk": "ALTER TABLE llm_decisions ADD COLUMN desk TEXT;",
    "999_model": (
        "-- concurrently llm_decisions_model\n"
        "CREATE INDEX CONCURRENTLY IF NOT EXISTS llm_decisions_model ON llm_decisions (model);"
    ),
}
BREAKING = {"999_contract": "-- breaking\nALTER TABLE llm_decisions RENAME COLUMN extra TO rest;"}


class Newer:
    """A copy of the package with more migrations, run as `migrate`, or by whoever has its `environment`."""

    def __init__(self, folder: Path, scripts: Mapping[str, str]) -> None:
        """Copy it into a folder that is not there yet."""
        package = Path(tracker_daemon.__file__).parent
        shutil.copytree(package, folder / "tracker_daemon", ignore=shutil.ignore_patterns("__pycache__"))
        for name, script in scripts.items():
            (folder / "tracker_daemon" / "schemas" / "sql" / f"{name}.sql").write_text(script)
        self._folder = folder
        self._log = folder / "log"
        self.environment = {"PYTHONPATH": str(folder)}
        """Variables under which `tracker-daemon` is this version."""

    @contextlib.asynccontextmanager
    async def migrating(self, settings: Mapping[str, str]) -> AsyncIterator[asyncio.subprocess.Process]:
        """The process, which does not outlive the block."""
        with self._log.open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "tracker_daemon",
                "migrate",
                cwd=self._folder,
                env={**settings, **self.environment},
                stdout=log,
                stderr=log,
            )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()

    async def migrate(self, settings: Mapping[str, str]) -> int:
        """Migrate, and return the exit code."""
        async with self.migrating(settings) as process, asyncio.timeout(PATIENCE_SECONDS):
            return await process.wait()

    def said(self) -> str:
        """What the migration has said."""
        return self._log.read_text()
