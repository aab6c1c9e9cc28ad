"""Which provider the settings ask for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_daemon.embeddings.local import Local

if TYPE_CHECKING:
    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.embeddings.provider import Provider


def provider_of(settings: EmbeddingSettings) -> Provider | None:
    """The provider, with nothing started yet; None: only what payloads carry is stored."""
    match settings.provider:
        case "local":
            return Local(settings.timeout_seconds)
        case "openai":
            from tracker_daemon.embeddings.openai import OpenAI  # noqa: PLC0415 - aiohttp is half a start

            return OpenAI(settings)
        case "none":
            return None
