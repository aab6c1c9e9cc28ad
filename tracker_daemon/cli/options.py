"""Options that several commands share, and how settings are loaded from them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
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

_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def moment(text: str) -> datetime:
    """Parse `24h`, `30d` (ago) or an ISO time; without an offset it means UTC."""
    parsed = age_or_time(text)
    return datetime.now(UTC) - parsed if isinstance(parsed, timedelta) else parsed


def age_or_time(text: str) -> timedelta | datetime:
    """Parse `24h`, `30d` or an ISO time; without an offset it means UTC."""
    try:
        if match := re.fullmatch(r"(\d{1,6})([smhdw])", text):
            age = timedelta(**{_UNITS[match[2]]: int(match[1])})
            datetime.now(UTC) - age  # there was such a time
            return age
        parsed = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        raise typer.BadParameter(
            "expected an age like 24h or 30d, or a time like 2026-11-22T10:00:00Z"
        ) from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def load(config_file: Path | None, settings: list[str] | None, **more: str) -> config.Settings:
    """Load the settings with the flags on top, and set up logging by them."""
    pairs = [text.partition("=") for text in settings or ()]
    if wrong := [number for number, (_, equals, _) in enumerate(pairs, 1) if not equals]:
        shape = "must look like batch.max_rows=500 (what it says is not shown, it may be a secret)"
        raise SettingsError([f"--set number {number}: {shape}" for number in wrong])
    loaded = config.load(config_file, {name: value for name, _, value in pairs} | more)
    logs.configure(loaded.log, loaded.redact.redactor)
    return loaded
