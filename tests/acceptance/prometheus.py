"""A real Prometheus with the shipped rules, that scrapes one daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

RULES = Path(__file__).parents[2] / "deploy/prometheus/rules/tracker.yml"


def configured(folder: Path, target: str) -> Path:
    """Write Prometheus's configuration, with the shipped rules, quicker than on duty."""
    folder.mkdir()
    (folder / "rules.yml").write_text(re.sub(r"for: \w+", "for: 1s", RULES.read_text()))
    often = {"scrape_interval": "200ms", "scrape_timeout": "200ms", "evaluation_interval": "200ms"}
    scrape = {"job_name": "tracker-daemon", "static_configs": [{"targets": [target]}]}
    config = folder / "prometheus.yml"
    config.write_text(json.dumps({"global": often, "rule_files": ["rules.yml"], "scrape_configs": [scrape]}))
    return config


@contextlib.asynccontextmanager
async def prometheus(folder: Path, target: str) -> AsyncIterator[str]:
    """A Prometheus that scrapes the target and keeps the shipped rules; its address."""
    config = configured(folder, target)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
