"""The texts that questions are about, as embeddings: by a provider of their own, one after the other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from tracker_daemon.embeddings.choice import provider_of
from tracker_daemon.embeddings.provider import ProviderFailed, TextRefused
from tracker_daemon.errors import InvalidQuestion

if TYPE_CHECKING:
    from tracker_daemon.config import EmbeddingSettings
    from tracker_daemon.redaction import Redactor


class TextEmbedder:
    """Asks a provider as in the settings; a batch of what is to be stored does not go before."""

    def __init__(self, settings: EmbeddingSettings, seconds: float, redactor: Redactor | None) -> None:
        """Keep whom to ask, and how long one text may take; nothing is started before the first.

        `redactor` cuts out of a text what it cuts out of prompts.
        """
        self._provider = provider_of(settings)
        self._characters = settings.max_characters
        self._seconds = seconds
        self._redactor = redactor
        self._free = asyncio.Lock()

    async def embed(self, text: str) -> tuple[str, tuple[float, ...]]:
        """Return the model and its vector of what the text begins with, as much as of a prompt.

        Raises `InvalidQuestion` for a text that can have none, and where no provider is set, `ProviderFailed`
        where it makes none now.
        """
        if self._provider is None:
            raise InvalidQuestion(
                "no text gets an embedding here, as TRACKER_EMBEDDING_PROVIDER is none: set a provider, or "
                "ask with an embedding and its embedding_model"
            )
        if self._redactor is not None:
            text = self._redactor.redact_text(text)
        beginning = text[: self._characters]
        if not beginning.strip():
            raise InvalidQuestion("the text says nothing that could be looked for")
        try:
            async with asyncio.timeout(self._seconds), self._free:
                [made] = await self._provider.embed([beginning])
        except TimeoutError:
            raise ProviderFailed(
                "unreachable", f"the text got no embedding within {self._seconds:g} s: ask again later"
            ) from None
        except TextRefused as error:
            raise InvalidQuestion(f"the text cannot be looked for: {error}") from error
        return self._provider.model, tuple(made)

    async def close(self) -> None:
        """Close the provider."""
        if self._provider is not None:
            await self._provider.close()
