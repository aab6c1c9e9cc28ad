"""Embeddings of real text by the provider `local`; kept, as a million of them takes half an hour."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from tests.bench.texts import texts
from tracker_daemon.embeddings.local import Local

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.bench.bench import Bench

KEPT: Final = Path(".cache/bench")
BATCH: Final = 256


async def embeddings(bench: Bench, count: int) -> NDArray[np.float32]:
    """The vectors of the first texts, a row each."""
    file = KEPT / f"embeddings-{count}.npy"
    if not file.exists():
        bench.say(f"embedding {count:,} texts, into {file}")
        local, made, source = Local(timeout_seconds=600), [], texts(count)
        try:
            while batch := list(islice(source, BATCH)):
                made += await local.embed(batch)
        finally:
            await local.close()
        file.parent.mkdir(parents=True, exist_ok=True)
        np.save(file, np.array(made, dtype=np.float32))
    found: NDArray[np.float32] = np.load(file)
    return found
