"""Options that several commands share, and how settings are loaded from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracker_daemon import config, logs
from tracker_daemon.errors import SettingsError

ConfigFile = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="TOML file with the settings, \\[group] by \\[group]."),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="GROUP.NAME=VALUE", help="One setting, over environment and file; repeatable."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", metavar="DIR", help="Folder of the embedded servers; kept, and used again."),
]


def load(config_file: Path | None, settings: list[str] | None, **more: str) -> config.Settings:
    """Load the settings with the flags on top, and set up logging by them."""
    pairs = [text.partition("=") for text in settings or ()]
    if wrong := [name for name, equals, _ in pairs if not equals]:
        raise SettingsError([f"--set {name}: must look like batch.max_rows=500" for name in wrong])
    loaded = config.load(config_file, {name: value for name, _, value in pairs} | more)
    logs.configure(loaded.log)
    return loaded
