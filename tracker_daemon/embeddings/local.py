"""The provider `local`: WordLlama on this machine, in a process that takes what CPU time is left over."""

from __future__ import annotations

import asyncio
import sys
from array import array
from pathlib import Path
from subprocess import PIPE
from typing import TYPE_CHECKING, Final

import orjson

from tracker_daemon.config.settings import LOCAL_DIMENSIONS
from tracker_daemon.embeddings.provider import FLOAT32, Embedding, ProviderFailed, checked

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Sequence

_PROGRAM: Final = Path(__file__).with_name("wordllama.py")


class Local:
    """Asks the process, which it starts for the first batch, and anew should it have ended."""

    model: Final = "wordllama/l2_supercat_256"
    dimensions: Final = LOCAL_DIMENSIONS

    def __init__(self, timeout_seconds: float) -> None:
        """Keep how long a batch may take: a machine without time to spare may need all of it."""
        self._timeout_seconds = timeout_seconds
        self._process: Process | None = None

    async def embed(self, texts: Sequence[str]) -> list[Embedding]:
        """Return a vector for each text: the mean of its tokens' vectors."""
        size = len(texts) * self.dimensions * 4
        answer = b""
        try:
            async with asyncio.timeout(self._timeout_seconds):
                answer = await self._ask(orjson.dumps(texts), size)
        except (asyncio.IncompleteReadError, ConnectionError) as error:
            raise ProviderFailed("failing", "the process that computes embeddings has ended") from error
        except TimeoutError as error:
            reason = (
                f"no embeddings within {self._timeout_seconds:g} s, the machine has no time to spare: lower "
                "TRACKER_EMBEDDING_BATCH_TEXTS, or raise TRACKER_EMBEDDING_TIMEOUT_SECONDS"
            )
            raise ProviderFailed("unreachable", reason) from error
        except OSError as error:
            reason = f"the process that computes embeddings cannot be started: {error.strerror}"
            raise ProviderFailed("failing", reason) from error
        finally:
            if len(answer) < size:  # what it still says would pass for the next batch's answer
                await self.close()
        numbers = array(FLOAT32, answer)
        vectors = [numbers[at : at + self.dimensions] for at in range(0, len(numbers), self.dimensions)]
        return checked(vectors, len(texts), self.dimensions)

    async def close(self) -> None:
        """End the process."""
        process, self._process = self._process, None
        if process is not None:
            if process.returncode is None:
                process.kill()
            await process.communicate()

    async def _ask(self, batch: bytes, size: int) -> bytes:
        if self._process is None:
            # -P: the folder of the program holds modules that are no top-level ones.
            command = (sys.executable, "-P", str(_PROGRAM), str(self.dimensions))
            self._process = await asyncio.create_subprocess_exec(*command, stdin=PIPE, stdout=PIPE)
        asked, answered = self._process.stdin, self._process.stdout
        if asked is None or answered is None:
            raise ConnectionError("the process has no pipes")
        asked.write(len(batch).to_bytes(4, "big") + batch)
        await asked.drain()
        return await answered.readexactly(size)
