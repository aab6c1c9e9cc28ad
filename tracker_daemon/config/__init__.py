"""Settings: `load` merges their sources and names every mistake, `Settings` is the result."""

from tracker_daemon.config.settings import (
    AlertSettings,
    BatchSettings,
    EmbeddingSettings,
    HttpSettings,
    LogSettings,
    NatsSettings,
    PostgresSettings,
    QuerySettings,
    Settings,
)
from tracker_daemon.config.sources import load

__all__ = [
    "AlertSettings",
    "BatchSettings",
    "EmbeddingSettings",
    "HttpSettings",
    "LogSettings",
    "NatsSettings",
    "PostgresSettings",
    "QuerySettings",
    "Settings",
    "load",
]
