"""A text that the provider does not take, told apart from those that it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from tracker_daemon.embeddings.provider import ProviderFailed, TextRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.embeddings.provider import Embedding, Provider

Known: TypeAlias = "dict[tuple[str, ...], list[Embedding | TextRefused] | None]"
"""What has been found out of a group of texts: an answer to each; None: it has to be halved."""

PROBE: Final = "The trend is up, and volume confirms it."
TRIES: Final = 3
"""So often must the provider fail over one text, and take another each time, before that one is blamed."""


async def embed_each(
    provider: Provider, texts: Sequence[str], known: Known, *, blaming: bool
) -> list[Embedding | TextRefused]:
    """Return for each text its vector, or why it can have none; halves what is refused until it is one text.

    `blaming`: the provider has failed so often over these texts that its failures may be about one of them.
    A text is blamed only where the provider takes another one right afterwards; else `ProviderFailed` is
    raised, and what is `known` by then is not asked for again.
    """
    group = tuple(texts)
    if group not in known:
        known[group] = await _answers(provider, texts, blaming=blaming)
    if (answers := known[group]) is not None:
        return answers
    middle = len(texts) // 2
    halves = texts[:middle], texts[middle:]
    return [one for half in halves for one in await embed_each(provider, half, known, blaming=blaming)]


async def _answers(
    provider: Provider, texts: Sequence[str], *, blaming: bool
) -> list[Embedding | TextRefused] | None:
    try:
        return list(await provider.embed(texts))
    except TextRefused as error:
        if len(texts) == 1:
            await probe(provider)
            return [error.alone()]
    except ProviderFailed as error:
        if not blaming or not _may_be_about_a_text(error):
            raise
        if len(texts) == 1:
            return [await _try_again(provider, texts[0])]
        await probe(provider)  # while it is away, each half would be asked for in vain
    return None


async def probe(provider: Provider) -> None:
    """Have an ordinary sentence embedded; raises `ProviderFailed` where not even that is."""
    try:
        await provider.embed([PROBE])
    except TextRefused as error:
        raise ProviderFailed(
            "refused", f"the provider takes no text at all: {error}; look at TRACKER_EMBEDDING_MODEL"
        ) from error


async def _try_again(provider: Provider, text: str) -> Embedding | TextRefused:
    blame = TextRefused("")
    for _ in range(TRIES):
        await probe(provider)
        try:
            [embedding] = await provider.embed([text])
        except TextRefused as error:
            return error.alone()
        except ProviderFailed as error:
            if not _may_be_about_a_text(error):
                raise
            blame = TextRefused(str(error))
        else:
            return embedding
    return blame


def _may_be_about_a_text(error: ProviderFailed) -> bool:
    return error.kind in {"unreachable", "failing", "garbage"}
