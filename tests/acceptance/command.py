"""The installed command as a process: commands that end by themselves, and a daemon under watch."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

SCRIPT = Path(sys.executable).with_name("tracker-daemon")
PATIENCE_SECONDS = 45.0
POLL_SECONDS = 0.03

T = TypeVar("T")


class Finished(NamedTuple):
    """A command that has ended: its exit code and what it said."""

    code: int
    out: str
    err: str


async def tracker(
    *arguments: str | Path, settings: Mapping[str, str], seconds: float = PATIENCE_SECONDS
) -> Finished:
    """Run `tracker-daemon` with these variables as its whole environment, and wait for its end."""
    process = await asyncio.create_subprocess_exec(
        SCRIPT,
        *arguments,
        env={"COLUMNS": "240", **settings},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        out, err = await asyncio.wait_for(process.communicate(), seconds)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode is not None
    return Finished(process.returncode, out.decode(), err.decode())


async def until(
    what: str, holds: Callable[[], Awaitable[T | None]], *, seconds: float = PATIENCE_SECONDS
) -> T:
    """Ask another process again and again until its answer is true, and return that; fail with `what`."""
    try:
        async with asyncio.timeout(seconds):
            while not (answer := await holds()):  # noqa: ASYNC110 - no event reaches us from there
                await asyncio.sleep(POLL_SECONDS)
            return answer
    except TimeoutError:
        raise AssertionError(f"it never came true that {what}") from None


class Metrics:
    """One scrape."""

    def __init__(self, exposition: str) -> None:
        """Parse the text format."""
        self._samples = [
            sample for family in text_string_to_metric_families(exposition) for sample in family.samples
        ]

    def __call__(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 when there are none."""
        return sum(
            sample.value
            for sample in self._samples
            if sample.name == f"tracker_{name}" and labels.items() <= sample.labels.items()
        )

    def assert_adds_up(self, subject: str) -> None:
        """Every message that came has met its fate, and none is held."""
        fates = ("stored", "duplicate", "dead_letter", "expired", "released")
        assert self("messages_received_total", subject=subject) == sum(
            self("messages_settled_total", subject=subject, result=fate) for fate in fates
        )
        assert (self("buffered_rows"), self("buffered_bytes")) == (0, 0)


class Daemon:
    """`tracker-daemon run` in a process of its own; whoever starts it sees to its end."""

    def __init__(
        self,
        settings: Mapping[str, str],
        log: Path,
        *arguments: str | Path,
        patience: float = PATIENCE_SECONDS,
    ) -> None:
        """Keep how to start: the whole environment, the file that takes stderr, more arguments.

        `patience`: for how many seconds anything is waited for.
        """
        self._settings = settings
        self._log = log
        self._arguments = arguments
        self._patience = patience
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> Daemon:
        """Start the process; it may not have got far yet."""
        with self._log.open("wb") as log:
            self._process = await asyncio.create_subprocess_exec(
                SCRIPT,
                "run",
                *self._arguments,
                env=dict(self._settings),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self

    @property
    def process(self) -> asyncio.subprocess.Process:
        """The process, running or ended."""
        assert self._process is not None, "the daemon has not been started"
        return self._process

    def output(self) -> str:
        """All that it has written so far."""
        return self._log.read_text()

    def lines(self) -> list[dict[str, Any]]:
        """All log lines so far, of which each must be JSON."""
        complete, _, _ = self.output().rpartition("\n")
        return [orjson.loads(line) for line in complete.splitlines()]

    async def said(self, *texts: str) -> dict[str, Any]:
        """Wait for a log line that holds all these texts, in whatever field, and return it."""

        async def line() -> dict[str, Any] | None:
            ended = self.process.returncode is not None  # before the log is read: no last word is missed
            for line in self.lines():
                if all(text in str(line) for text in texts):
                    return line
            assert not ended, f"ended without a line that holds {texts}:\n{self.output()}"
            return None

        return await until(f"the daemon says {texts}", line, seconds=self._patience)

    async def get(self, path: str) -> tuple[int, str]:
        """Ask its HTTP server, wherever that listens; return status and body."""
        address = (await self.said("started"))["http"]
        async with aiohttp.ClientSession() as session, session.get(address + path) as response:
            return response.status, await response.text()

    async def obstacles(self) -> dict[str, str]:
        """What keeps it from being ready, as `/readyz` says; empty when it is."""
        status, body = await self.get("/readyz")
        answer = orjson.loads(body)
        assert (status, answer["status"]) == ((503, "not ready") if answer["obstacles"] else (200, "ready"))
        obstacles: dict[str, str] = answer["obstacles"]
        return obstacles

    async def ready(self) -> Daemon:
        """Wait until it is ready."""

        async def is_ready() -> bool:
            assert self.process.returncode is None, self.output()
            return not await self.obstacles()

        await until("the daemon is ready", is_ready, seconds=self._patience)
        return self

    async def metrics(self) -> Metrics:
        """Scrape it."""
        status, body = await self.get("/metrics")
        assert status == 200
        return Metrics(body)

    async def received(self, messages: int) -> None:
        """Wait until so many messages have come in."""

        async def enough() -> bool:
            return (await self.metrics())("messages_received_total") >= messages

        await until(f"{messages} messages are received", enough, seconds=self._patience)

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    async def ended(self) -> int:
        """Wait for its end and return the exit code, which is negative after a signal that killed it."""
        try:
            return await asyncio.wait_for(self.process.wait(), self._patience)
        except TimeoutError:
            raise AssertionError(f"the daemon does not end:\n{self.output()}") from None

    async def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that asks for its end, and return the exit code."""
        self.send(number)
        return await self.ended()

    async def kill(self) -> None:
        """End it as a crash would, if it still runs."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()
