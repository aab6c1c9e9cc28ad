"""The case of similar situations against a real server, in small: what it asks and keeps, never how fast."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.bench import Bench
from tests.bench.cases import similar

if TYPE_CHECKING:
    import pytest

ROWS = 6_000


async def test_the_nearest_of_each_question_are_compared_with_those_that_there_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By the index, which has all rows then."""
    monkeypatch.setattr(similar, "QUESTIONS", 4)
    asked = []
    ask = similar.similar_decisions

    async def told(*arguments: object, **more: object) -> object:
        asked.append(await ask(*arguments, **more))  # type: ignore[arg-type]
        return asked[-1]

    monkeypatch.setattr(similar, "similar_decisions", told)
    result = await similar.run(Bench(scale=ROWS / similar.COUNT))
    assert len(asked) == 2 * 2 * 4 * len(similar._FILTERS)
    assert all(answer.by_index for answer in asked)
    assert sum(len(answer.precedents) for answer in asked) > 5 * len(asked)
    recalls = [
        line.judged.median for line in result.lines if line.measure.endswith("recall@10") and line.judged
    ]
    assert len(recalls) == 2 * len(similar._FILTERS)
    assert sum(recalls) > 0.9 * len(recalls)
    assert all(line.goal is not None for line in result.lines if line.judged)
