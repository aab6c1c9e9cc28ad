"""The provider of embeddings: whether it makes one, of a sentence that is nobody's."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_daemon.doctor.finding import Finding, Level
from tracker_daemon.embeddings import ProviderFailed, probe, provider_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.config import Settings


async def look(settings: Settings) -> AsyncIterator[Finding]:
    """Ask the provider, where one is set; broken is what no waiting mends."""
    provider = provider_of(settings.embedding)
    if provider is None:
        return
    try:
        await probe(provider)
    except ProviderFailed as error:
        level: Level = "broken" if error.kind in {"refused", "garbage"} else "warning"
        yield Finding("embeddings", level, f"{error}; decisions are stored meanwhile, and wait for theirs")
    else:
        yield Finding("embeddings", "ok", f"{provider.model} makes them, of {provider.dimensions} numbers")
    finally:
        await provider.close()
