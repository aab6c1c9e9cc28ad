"""The case of vectors against a real server, in small: what it asks, and that recall is what it says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.bench import embedding, texts
from tests.bench.bench import Bench
from tests.bench.cases import vectors
from tracker_daemon.config.settings import LOCAL_DIMENSIONS

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


async def test_every_index_is_asked_and_compared_with_a_look_at_all(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So few embeddings are all among the candidates, and the product compares all of them."""
    monkeypatch.setattr(embedding, "KEPT", tmp_path)
    monkeypatch.setattr(texts, "_source", lambda: b"Of all that is written some is read. " * 1_000)
    monkeypatch.setattr(vectors, "SIZES", (300,))
    monkeypatch.setattr(vectors, "QUESTIONS", 5)
    monkeypatch.setattr(vectors, "INSERTED", 20)
    result = await vectors.run(Bench())
    recalls = {each["measure"]: each["recall"] for each in result.records if "recall" in each}
    scans = [len(kind.scans) + len(vectors.SHARES) * len(kind.filtered) for kind in vectors.KINDS]
    assert len(recalls) == len(vectors.SHARES) + sum(scans) + 1 + len(vectors.SHARES)
    assert {recall for name, recall in recalls.items() if "exact" in name or "similar_prompts" in name} == {1}
    assert min(recalls.values()) > 0.7
    assert [each["measure"] for each in result.records if "rate" in each] == [
        "320 rows, direction: upkeep",
        "320 rows, signs: upkeep",
    ]
    assert sum(line.goal is not None for line in result.lines) == 2 * (1 + len(vectors.SHARES))
    assert np.load(tmp_path / "embeddings-325.npy").shape == (325, LOCAL_DIMENSIONS)


def test_texts_are_the_same_each_time_and_real() -> None:
    some = list(texts.texts(50))
    assert some == list(texts.texts(50)) == list(texts.texts(60))[:50]
    assert any("Question: should the desk BUY" in text for text in some)
    assert len(set(some)) == 50
    assert not any("\0" in text for text in some)
