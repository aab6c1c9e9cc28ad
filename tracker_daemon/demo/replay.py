"""Publishes a script to NATS as any client would, and waits for the stream's ack of every message."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Final

import nats
import nats.errors

from tracker_daemon.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
    from datetime import date

    from nats.aio.client import Client
    from nats.js import JetStreamContext
    from nats.js.api import PubAck

    from tracker_daemon.demo.script import Message, Script, Subject

# Messages in flight: enough to keep the server busy, few enough to be re-sent when it refuses them.
WINDOW: Final = 256
ACK_TIMEOUT_SECONDS: Final = 5.0
PAUSES_SECONDS: Final = (0.5, 1.0, 2.0, 4.0)

SUBJECTS: Final[Mapping[Subject, str]] = {"decisions": "llm.decisions", "outcomes": "llm.outcomes"}


@dataclass(slots=True)
class Progress:
    """What the stream has stored of this replay so far; only acknowledged messages count."""

    decisions: int = 0
    outcomes: int = 0
    malformed: int = 0
    day: date | None = None
    """The replayed day that was reached."""
    stream: str | None = None
    malformed_sequences: list[int] = field(default_factory=list)
    """Where in the stream the malformed messages are: how their dead letters are told from others."""

    def count(self, message: Message, ack: PubAck) -> None:
        """Note that the stream has stored `message`."""
        match message.kind:
            case "decision":
                self.decisions += 1
            case "outcome":
                self.outcomes += 1
            case "malformed":
                self.malformed += 1
                self.malformed_sequences.append(ack.seq)
        self.stream = ack.stream
        self.day = message.day


async def replay(
    nats_url: str,
    script: Script,
    subjects: Mapping[Subject, str] = SUBJECTS,
    rate: float | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> Progress:
    """Publish the script at `rate` messages a second (None: as fast as acks come).

    Unavailable says that NATS could not be reached or kept refusing. `on_progress` gets the same Progress
    after every window of at most WINDOW messages.
    """
    progress = Progress()
    connection = await _connect(nats_url)
    try:
        jetstream = connection.jetstream(timeout=ACK_TIMEOUT_SECONDS)
        async for window in _windows(script.messages(), rate):
            await _publish(jetstream, window, subjects, progress)
            on_progress(progress)
    finally:
        await connection.close()
    return progress


async def _connect(nats_url: str) -> Client:
    reasons: list[Exception] = []

    async def note(reason: Exception) -> None:
        reasons.append(reason)

    try:
        # Few attempts: whoever watches a demo wants to hear soon that its server is gone.
        return await nats.connect(
            nats_url, name="tracker-demo", error_cb=note, max_reconnect_attempts=5, reconnect_time_wait=1
        )
    except (nats.errors.Error, OSError) as error:
        reason = reasons[-1] if reasons else error
        raise Unavailable(
            f"The demo cannot reach its NATS server ({reason}); start it, then run the demo again."
        ) from error


async def _windows(messages: Iterator[Message], rate: float | None) -> AsyncIterator[list[Message]]:
    """Cut the messages into windows, each due by the clock since the start: delays do not add up."""
    clock = asyncio.get_running_loop().time
    start, sent, room = clock(), 0, WINDOW
    while True:
        if rate is not None:
            await asyncio.sleep(start + (sent + 1) / rate - clock())
            room = min(WINDOW, max(1, int((clock() - start) * rate) - sent))
        window = list(islice(messages, room))
        if not window:
            return
        yield window
        sent += len(window)


async def _publish(
    jetstream: JetStreamContext,
    window: Sequence[Message],
    subjects: Mapping[Subject, str],
    progress: Progress,
) -> None:
    """Publish and wait for every ack; what was refused is published again after a pause, a few times."""
    for pause in (*PAUSES_SECONDS, None):
        acks = await asyncio.gather(
            *(_acknowledged(jetstream, subjects[message.subject], message) for message in window)
        )
        refused: list[Message] = []
        for message, ack in zip(window, acks, strict=True):
            if isinstance(ack, nats.errors.Error):
                refused.append(message)
                last = ack
            else:
                progress.count(message, ack)
        if not refused:
            return
        window = refused
        if pause is not None:
            await asyncio.sleep(pause)
    raise Unavailable(
        f"The stream did not take {len(window)} of the demo's messages in {len(PAUSES_SECONDS) + 1} attempts "
        f"({last}); see that it exists and has room, then run the demo again."
    ) from last


async def _acknowledged(
    jetstream: JetStreamContext, subject: str, message: Message
) -> PubAck | nats.errors.Error:
    """Publish one message and return the stream's ack, or what NATS said instead."""
    try:
        # With the id the stream drops a second copy of what it has stored already: only the ack was lost.
        return await jetstream.publish(subject, message.payload, headers={"Nats-Msg-Id": message.message_id})
    except nats.errors.Error as error:
        return error
