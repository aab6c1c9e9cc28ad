"""What makes embeddings of texts: the protocol of all providers, and how they fail."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, Literal, Protocol, TypeAlias

from tracker_daemon.errors import TrackerError, Unavailable

if TYPE_CHECKING:
    from array import array
    from collections.abc import Sequence

Embedding: TypeAlias = "array[float]"
"""One vector, in float32."""

Kind = Literal["unreachable", "busy", "failing", "garbage", "refused", "text"]
"""`refused`: whatever it is asked, an operator must act; `text`: it was that one text."""

FLOAT32: Final = "f"


class ProviderFailed(Unavailable):
    """The provider makes no embeddings for now; that says nothing of any text."""

    def __init__(self, kind: Kind, message: str, retry_after: float = 0.0) -> None:
        """Keep what the metric counts, and for how many seconds the provider wants to be left alone."""
        super().__init__(message)
        self.kind: Kind = kind
        self.retry_after = retry_after


class TextRefused(TrackerError):
    """The provider does not take these texts, or at least one of them; the message quotes none."""


class Provider(Protocol):
    """Makes embeddings of texts, one batch after the other."""

    @property
    def model(self) -> str:
        """What its vectors are known by: those of one name can be compared."""

    @property
    def dimensions(self) -> int:
        """The length of each vector."""

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return a vector for each text, in order; raises `ProviderFailed` or `TextRefused`."""

    async def close(self) -> None:
        """Let go of what it holds; asked again, it opens that anew."""


def checked(vectors: list[Embedding], texts: int, dimensions: int) -> list[Embedding]:
    """The vectors, if there is a good one for each text.

    Raises `ProviderFailed` for another number or length, or what is not finite, and `TextRefused` for one of
    zeros: it has no direction, and is near to nothing.
    """
    if len(vectors) != texts:
        raise ProviderFailed("garbage", f"the provider gave {len(vectors)} embeddings for {texts} texts")
    for vector in vectors:
        if len(vector) != dimensions:
            raise ProviderFailed(
                "garbage",
                f"the provider's embeddings have {len(vector)} numbers, TRACKER_EMBEDDING_DIMENSIONS is "
                f"{dimensions}: take a model whose embeddings are as long as that",
            )
        if not math.isfinite(sum(vector)):
            raise ProviderFailed("garbage", "the provider gave an embedding with a number that is not finite")
        if not any(vector):
            raise TextRefused("the provider gave an embedding of nothing but zeros")
    return vectors
