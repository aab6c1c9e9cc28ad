"""What is measured, a module each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from tests.bench.cases import (
    choices,
    drain,
    embedding,
    growth,
    live,
    memory,
    outcomes,
    queries,
    replicas,
    similar,
    sizes,
    vectors,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from tests.bench.bench import Bench, Result

CASES: Final[dict[str, Callable[[Bench], Coroutine[None, None, Result]]]] = {
    "choices": choices.run,
    "drain": drain.run,
    "embedding": embedding.run,
    "growth": growth.run,
    "live": live.run,
    "memory": memory.run,
    "outcomes": outcomes.run,
    "queries": queries.run,
    "replicas": replicas.run,
    "similar": similar.run,
    "sizes": sizes.run,
    "vectors": vectors.run,
}
