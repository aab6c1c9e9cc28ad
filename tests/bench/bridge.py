"""mq-bridge, a Rust engine: from JetStream into a PostgreSQL table, in the two ways it knows.

What its documentation advises was tried on two cores, and the best taken: four workers, as its `copy` has,
are twice as fast as one (eight are no better); a batch of 1,024 or of 8,192 makes no difference, since a pull
brings it some hundred messages at most; its `buffer`, which would gather them, refuses to stand behind NATS,
and before the table it costs two thirds of the rate.

Neither way does all that the daemon does: no dead letters, no outcomes, a field without a column is dropped;
and `bulk_copy` leaves `context` NULL, because it reads scalar fields only: 0.3 KB less a row.
"""

from __future__ import annotations

import asyncio
import importlib.util
import json
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from tests.bench.cpu import used
from tests.bench.stage import DECISIONS, STREAM
from tests.bench.tables import SEED
from tests.bench.yardstick import Drained, drained

if TYPE_CHECKING:
    from tests.bench.stage import Stage

DURABLE: Final = f"mq-bridge-{STREAM}-{DECISIONS.replace('.', '-')}"
"""The name that it gives its durable consumer."""

WORKERS: Final = 4

_FIELDS: Final = tuple(name for name in SEED.columns if name not in {"outcome", "pnl", "prompt_embedding"})
BULK_COPY: Final = {
    "bulk_copy": True,
    "insert_query": f"INSERT INTO {SEED.name} ({', '.join(_FIELDS)}) "
    f"VALUES ({', '.join(f'${{payload:{name}}}' for name in _FIELDS)})",
}
IDEMPOTENT: Final = {"columns": "auto", "key": "id"}


def installed() -> bool:
    """Whether the extra that brings it is there."""
    return importlib.util.find_spec("mq_bridge") is not None


class Bridge:
    """A process that runs one route."""

    def __init__(self, name: str, mode: dict[str, Any], batch: int) -> None:
        """Keep how it writes, and the rows that it may write at once."""
        self.name = name
        self.table = SEED.name
        self._mode = mode
        self._batch = batch

    async def run(self, stage: Stage, messages: list[bytes]) -> Drained:
        """Drain a stream that is filled with the messages."""
        count = await stage.fill(messages)
        await stage.settle()
        log = stage.new_log()
        with log.open("wb") as said:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "tests.bench.bridge"),
                stdin=asyncio.subprocess.PIPE,
                stdout=said,
                stderr=said,
            )
        assert process.stdin is not None
        # Not as an argument, which every user of the machine could read: it holds the password.
        process.stdin.write(json.dumps(self._route(stage)).encode())
        process.stdin.close()

        def alive() -> None:
            if process.returncode is not None:
                raise RuntimeError(f"mq-bridge has ended:\n{log.read_text()[-2000:]}")

        try:
            return await drained(stage, DURABLE, count, lambda: used(process.pid), alive)
        finally:
            if process.returncode is None:
                process.terminate()
            await process.wait()

    def _route(self, stage: Stage) -> dict[str, Any]:
        table = {
            "url": f"postgres://127.0.0.1:{stage.postgres.port}/{stage.database}",
            "username": "tracker",
            "password": stage.postgres.passfile.read_text().strip().rpartition(":")[2],
            "table": SEED.name,
            **self._mode,
        }
        return {
            "input": {"nats": {"url": stage.nats.url, "stream": STREAM, "subject": DECISIONS}},
            "output": {"sqlx": table},
            "batch_size": self._batch,
            "concurrency": WORKERS,
        }


def main() -> None:
    """Run the route whose configuration comes on standard input, until SIGTERM."""
    import mq_bridge  # noqa: PLC0415 - only where the extra is installed

    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    route = mq_bridge.Route.from_config(json.load(sys.stdin))
    route.start()
    signal.sigwait({signal.SIGTERM})
    route.stop()


if __name__ == "__main__":
    main()
