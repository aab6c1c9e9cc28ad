"""What `check` finds about the provider of embeddings: a real server's answers, each with its remedy."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import DIMENSIONS
from tests.provider import MODEL, EmbeddingServer, answer, good
from tracker_daemon.config import load
from tracker_daemon.doctor import Finding, embeddings
from tracker_daemon.embeddings.isolation import PROBE

if TYPE_CHECKING:
    from tests.provider import Handler

KEY = "sk-very-secret"


async def look(**settings: str) -> list[Finding]:
    """What is found with these settings."""
    return [finding async for finding in embeddings.look(load(environ=settings))]


async def ask(handler: Handler | None) -> tuple[Finding, EmbeddingServer]:
    """What is found where a server answers so."""
    async with EmbeddingServer() as server:
        server.handler = handler
        [found] = await look(
            TRACKER_EMBEDDING_PROVIDER="openai",
            TRACKER_EMBEDDING_URL=server.url,
            TRACKER_EMBEDDING_MODEL=MODEL,
            TRACKER_EMBEDDING_KEY=KEY,
            TRACKER_EMBEDDING_DIMENSIONS=str(DIMENSIONS),
        )
    assert found.part == "embeddings"
    assert KEY not in found.seen
    return found, server


async def test_one_that_works_is_well_and_is_asked_for_a_sentence_that_is_nobodys() -> None:
    found, server = await ask(good)
    assert (found.level, found.seen) == ("ok", f"{MODEL} makes them, of {DIMENSIONS} numbers")
    assert server.asked == [[PROBE]]


async def test_local_is_tried_too() -> None:
    [found] = await look(TRACKER_EMBEDDING_PROVIDER="local", TRACKER_EMBEDDING_DIMENSIONS="256")
    assert (found.level, found.seen) == ("ok", "wordllama/l2_supercat_256 makes them, of 256 numbers")


async def test_where_none_is_set_there_is_nothing_to_find() -> None:
    assert await look() == []


@pytest.mark.parametrize(
    ("handler", "level", "words"),
    [
        (answer({}, 401), "broken", ["answers 401", "TRACKER_EMBEDDING_KEY"]),
        (
            answer({"error": {"code": "model_not_found"}}, 400),
            *("broken", ["model_not_found", "look at TRACKER_EMBEDDING_MODEL"]),
        ),
        (
            answer({"data": [{"index": 0, "embedding": [1, 2]}]}),
            *("broken", ["have 2 numbers", f"TRACKER_EMBEDDING_DIMENSIONS is {DIMENSIONS}: take a model"]),
        ),
        (answer({}, 429), "warning", ["too many requests"]),
        (answer({}, 500), "warning", ["answers 500"]),
        (None, "warning", ["cannot be reached"]),
    ],
    ids=["key", "model", "dimension", "busy", "failing", "away"],
)
async def test_what_no_waiting_mends_is_broken(handler: Handler | None, level: str, words: list[str]) -> None:
    found, _ = await ask(handler)
    assert found.level == level
    assert [word for word in words if word not in found.seen] == []
    assert found.seen.endswith("; decisions are stored meanwhile, and wait for theirs")
