"""Which text is blamed: only one that alone is refused by a provider that takes another."""

from __future__ import annotations

import contextlib
from array import array
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.embeddings.isolation import PROBE, Known, embed_each
from tracker_daemon.embeddings.provider import ProviderFailed, TextRefused

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.embeddings.provider import Embedding, Kind


class Picky:
    """A provider that fails over some texts, by the error that it has for them."""

    model = "picky"
    dimensions = 1

    def __init__(self, errors: dict[str, TextRefused | ProviderFailed]) -> None:
        self.errors = errors
        self.asked = 0

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        self.asked += 1
        for text in texts:
            if text in self.errors:
                raise self.errors[text]
        return [array("f", [len(text)]) for text in texts]

    async def close(self) -> None:
        pass


TEXTS = [f"{'x' * number} {number}" for number in range(32)]


@given(st.sets(st.sampled_from(TEXTS)))
async def test_exactly_the_refused_texts_have_no_vector(refused: set[str]) -> None:
    provider = Picky({text: TextRefused("too long") for text in refused})
    made = await embed_each(provider, TEXTS, {}, blaming=False)
    assert len(made) == len(TEXTS)
    for text, one in zip(TEXTS, made, strict=True):
        assert isinstance(one, TextRefused) if text in refused else one == array("f", [len(text)])


async def test_one_bad_text_costs_few_requests() -> None:
    provider = Picky({TEXTS[7]: TextRefused("too long")})
    await embed_each(provider, TEXTS, {}, blaming=False)
    assert provider.asked == 1 + 2 * 5 + 1  # the batch, five times two halves, the probe


async def test_where_every_text_is_refused_none_is_blamed() -> None:
    provider = Picky({text: TextRefused("no such model") for text in [*TEXTS, PROBE]})
    with pytest.raises(ProviderFailed, match="no text at all: no such model; look at TRACKER") as failed:
        await embed_each(provider, TEXTS, {}, blaming=False)
    assert failed.value.kind == "refused"


@pytest.mark.parametrize("kind", ["unreachable", "failing", "garbage"])
async def test_a_failure_blames_a_text_only_when_it_has_come_too_often(kind: Kind) -> None:
    provider = Picky({TEXTS[3]: ProviderFailed(kind, "over this one")})
    with pytest.raises(ProviderFailed, match="over this one"):
        await embed_each(provider, TEXTS, {}, blaming=False)
    made = await embed_each(provider, TEXTS, {}, blaming=True)
    assert [text for text, one in zip(TEXTS, made, strict=True) if isinstance(one, TextRefused)] == [TEXTS[3]]


async def test_a_text_that_it_takes_at_the_second_or_third_try_is_not_blamed() -> None:
    """A provider that fails now and then fails over any text, sooner or later."""

    class Moody(Picky):
        async def embed(self, texts: Sequence[str]) -> list[Embedding]:
            if list(texts) == [TEXTS[3]] and self.asked > 17:
                self.errors = {}
            return await super().embed(texts)

    provider = Moody({TEXTS[3]: ProviderFailed("failing", "for now")})
    made = await embed_each(provider, TEXTS, {}, blaming=True)
    assert made == [array("f", [len(text)]) for text in TEXTS]


@pytest.mark.parametrize("kind", ["unreachable", "failing"])
async def test_a_provider_that_fails_over_everything_blames_none(kind: Kind) -> None:
    """And is not asked for each half."""
    provider = Picky({text: ProviderFailed(kind, "broken") for text in [*TEXTS, PROBE]})
    with pytest.raises(ProviderFailed, match="broken"):
        await embed_each(provider, TEXTS, {}, blaming=True)
    assert provider.asked == 2


@pytest.mark.parametrize("kind", ["busy", "refused"])
async def test_what_is_no_texts_fault_blames_none_however_often(kind: Kind) -> None:
    provider = Picky({TEXTS[3]: ProviderFailed(kind, "away")})
    with pytest.raises(ProviderFailed, match="away"):
        await embed_each(provider, TEXTS, {}, blaming=True)


@given(st.sets(st.sampled_from(TEXTS), max_size=4), st.integers(2, 5))
async def test_what_is_known_by_a_failure_is_not_asked_for_again(refused: set[str], most: int) -> None:
    """So a provider that takes so few requests at once gets to the end all the same."""

    class Limited(Picky):
        async def embed(self, texts: Sequence[str]) -> list[Embedding]:
            if self.asked % (most + 1) == most:
                self.asked += 1
                raise ProviderFailed("busy", "too many requests")
            return await super().embed(texts)

    provider = Limited({text: TextRefused("too long") for text in refused})
    known: Known = {}
    for _ in range(200):
        with contextlib.suppress(ProviderFailed):
            made = await embed_each(provider, TEXTS, known, blaming=False)
            break
    assert {text for text, one in zip(TEXTS, made, strict=True) if isinstance(one, TextRefused)} == refused
