"""The case of embeddings against real servers and the real provider, in small: never how fast it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.bench import Bench
from tests.bench.cases import embedding
from tests.bench.cases.embedding import AHEAD, BURST, GOAL

if TYPE_CHECKING:
    import pytest

    from tests.bench.stage import Stage

ROWS = 300


async def test_a_stream_is_drained_beside_the_provider_and_a_burst_is_caught_up_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Embeddings are made while the stream is drained, and of the burst until none is missing."""
    done, seen = embedding._done, []

    async def noted(stage: Stage) -> list[int]:
        seen.append(await done(stage))
        return seen[-1]

    monkeypatch.setattr(embedding, "_done", noted)
    monkeypatch.setattr(embedding, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(embedding, "PAIRS", 2)
    result = await embedding.run(Bench(rounds=1, rows=ROWS, scale=0.01))
    *beside, burst = result.records
    assert [(record["round"], record["contestant"], record["messages"]) for record in beside] == [
        *((1, "none", ROWS), (1, "local", ROWS)),
        *((2, "local", ROWS), (2, "none", ROWS)),
    ]
    for record in beside:
        made = record["embedded"]
        assert (0 < made <= ROWS + 0.01 * AHEAD) if record["contestant"] == "local" else made == 0
    count = round(0.01 * BURST)
    assert seen[-1] == [count, count]
    assert burst["messages"] == count
    assert max(burst["waiting"]) <= count
    assert burst["cpu"].keys() == {"client", "postgres", "nats", "provider"}
    assert all(seconds > 0 for seconds in burst["cpu"].values())
    assert [line.goal for line in result.lines] == [None, GOAL, None, None]
