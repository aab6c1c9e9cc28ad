"""Agents under load: what they publish, and the record of what the stream confirmed."""

from __future__ import annotations

import asyncio
import random
import uuid
from collections import deque
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, Literal

import msgspec
import nats.errors
from msgspec import Struct

from tests.acceptance.stream import encoded
from tests.factory import days_ago, decision, outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nats.js import JetStreamContext

    from tests.acceptance.stream import Stream

Fate = Literal["decision", "outcome", "dead_letter", "expired"]

BURST: Final = 25
"""Messages that wait for the stream's confirmation together."""
ANSWER_SECONDS: Final = 2.0
RETRY_SECONDS: Final = 0.1
EXPIRED_DAYS: Final = 4000
"""More than any setting of retention in a scene."""

# One of each kind that needs no setting to be wrong; all texts that decoders, text and jsonb stumble over.
POISON: Final[tuple[bytes, ...]] = (
    b"",
    b"BUY BTC now",
    b"[1, 2]",
    b'{"agent_name": "cut short',
    b'{"prompt": "bad \xff\xfe UTF-8"}',
    b'{"prompt": "NUL \\u0000", "agent_name": "a"}',
    b'{"response": "half \\ud83d"}',
    b'{"context": {"rsi": 1e400}}',
    b'{"confidence": 1e400}',
    b'{"prompt_embedding": [1, 2, 3, 4]}',
    b'{"context": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
    b'{"symbol": "a symbol of more than twenty characters"}',
)


class Event(Struct, frozen=True):
    """What an outcome says, for the judge to work out the winner."""

    observed_at: datetime
    word: str
    pnl: Decimal | None


class Draft(Struct, frozen=True):
    """A message to be published and the row that it must become.

    `mark` is the text that tells its row from every other: the prompt of a decision, the note of an outcome,
    the whole payload of a dead letter. A decision that is published again keeps its mark; one whose fate is
    `expired` becomes no row, or does not stay one.
    """

    subject: str
    payload: bytes
    fate: Fate
    mark: str | bytes
    decision_id: uuid.UUID | None = None
    event: Event | None = None


class Confirmed(Struct, frozen=True):
    """A message that the stream has confirmed, and its sequence there."""

    draft: Draft
    sequence: int


class Agents:
    """Makes decisions, their outcomes in any order, repetitions, and poison: the same from the same seed."""

    def __init__(self, stream: Stream, seed: int, *, poison: float = 0.01) -> None:
        """`poison`: the share of messages that break the contract."""
        self._stream = stream
        self._chance = random.Random(seed)  # noqa: S311 - a test's data
        self._mark = f"{seed:x}-{uuid.uuid4().hex[:6]}"
        self._poison = poison
        self._ready: deque[Draft] = deque()
        self._made = 0

    def next(self) -> Draft:
        """The next message."""
        if not self._ready:
            self._ready.extend(self.stories(20))
        return self._ready.popleft()

    def stories(self, count: int) -> list[Draft]:
        """So many decisions, some with outcomes, shuffled: outcomes come before their decisions too."""
        drafts = [draft for _ in range(count) for draft in self._story()]
        self._chance.shuffle(drafts)
        return drafts

    def settled_stories(self, count: int) -> list[Draft]:
        """So many decisions with 1 to 3 outcomes each, all of it shuffled."""
        drafts = []
        for _ in range(count):
            made = self.decision()
            drafts += [made, *self._outcomes(made, self._chance.randint(1, 3))]
        self._chance.shuffle(drafts)
        return drafts

    def poison(self, payload: bytes | None = None) -> Draft:
        """A message that must become a dead letter; one of `POISON` unless given."""
        chance = self._chance
        # JSON and rubbish alike stay what they are with blanks around them: so each is told from the others.
        mark = f"{self._next_number():020b}".replace("0", " ").replace("1", "\t").encode()
        payload = (chance.choice(POISON) if payload is None else payload) + mark
        subject = chance.choice((self._stream.decisions, self._stream.outcomes))
        return Draft(subject, payload, "dead_letter", payload)

    def refused(self, symbol: str) -> Draft:
        """A decision that the decoder takes, with a symbol that some rule of the database does not."""
        draft = self.decision(symbol=symbol)
        return Draft(draft.subject, draft.payload, "dead_letter", draft.payload)

    def decision(self, *, with_id: bool = True, **fields: Any) -> Draft:
        """A decision with a prompt of its own, and an id of its own or that of its place in the stream."""
        chance, number = self._chance, self._next_number()
        id_ = uuid.UUID(int=chance.getrandbits(128), version=4) if with_id else None
        prompt = f"{self._mark}: decision {number}. Buy, sell or hold?"
        payload = decision(
            id=id_ and str(id_),
            prompt=prompt,
            session_id=str(uuid.UUID(int=chance.randrange(5))),
            confidence=Decimal(chance.randrange(10_001)).scaleb(-4),
            context={"rsi": chance.randrange(1000) / 10, "news": "·" * chance.randrange(800)},
            **fields,
        )
        return Draft(self._stream.decisions, encoded(payload), "decision", prompt, id_)

    def expired(self) -> Draft:
        """A decision from so long ago that it is pruned, or comes too late to be stored."""
        draft = self.decision(timestamp=days_ago(EXPIRED_DAYS))
        return msgspec.structs.replace(draft, fate="expired")

    def brief_decision(self) -> Draft:
        """A decision of which a stream can hold many."""
        prompt = f"{self._mark}: decision {self._next_number()}"
        return Draft(self._stream.decisions, encoded(decision(prompt=prompt)), "decision", prompt)

    def outcome(self, decision_id: uuid.UUID) -> Draft:
        """An outcome of a decision, with a note of its own; its time is one of few, so that ties happen."""
        chance = self._chance
        note = f"{self._mark}: outcome {self._next_number()}"
        event = Event(
            datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=chance.randrange(20)),
            chance.choice(("SUCCESS", "FAILURE", "PENDING")),
            chance.choice((None, Decimal(chance.randrange(-(10**12), 10**12)).scaleb(-8))),
        )
        payload = outcome(decision_id, event.word, timestamp=event.observed_at.isoformat(), note=note)
        payload |= {} if event.pnl is None else {"pnl": event.pnl}
        return Draft(self._stream.outcomes, encoded(payload), "outcome", note, decision_id, event)

    def _story(self) -> list[Draft]:
        chance = self._chance
        if chance.random() < self._poison:
            return [self.poison()]
        first = self.decision(with_id=chance.random() < 0.7)
        repeated = [first] if first.decision_id and chance.random() < 0.05 else []
        return [first, *repeated, *self._outcomes(first, chance.randint(0, 3))]

    def _outcomes(self, draft: Draft, count: int) -> list[Draft]:
        return [self.outcome(draft.decision_id) for _ in range(count)] if draft.decision_id else []

    def _next_number(self) -> int:
        self._made += 1
        return self._made


class Load:
    """Publishes what agents make, at a steady rate, until each message is confirmed."""

    def __init__(self, stream: Stream, agents: Agents, *, rate: float = 400) -> None:
        """`rate`: messages a second at most."""
        self.confirmed: list[Confirmed] = []
        self.rate = rate
        self._stream = stream
        self._js: JetStreamContext = stream.client.jetstream(timeout=ANSWER_SECONDS)
        self._agents = agents
        self._publishing: asyncio.Task[None] | None = None
        self._stopping = False
        self._more = asyncio.Condition()

    async def start(self) -> None:
        """Begin to publish, in the background."""
        self._stopping = False
        self._publishing = asyncio.create_task(self._publish_on())

    async def stop(self) -> None:
        """Publish no more; what is on its way is confirmed first."""
        if self._publishing is not None:
            self._stopping = True
            await self._publishing
            self._publishing = None

    async def abort(self) -> None:
        """Publish no more, whatever is on its way."""
        if self._publishing is not None:
            self._publishing.cancel()
            with suppress(asyncio.CancelledError):
                await self._publishing

    async def flow(self, messages: int) -> None:
        """Wait until so many more messages are confirmed."""
        enough = len(self.confirmed) + messages
        await self.until(lambda: len(self.confirmed) >= enough)

    async def until(self, holds: Callable[[], bool]) -> None:
        """Wait until something holds that more messages bring about; raise what publishing raised."""
        assert self._publishing is not None, "nothing is being published"
        async with self._more:
            while not holds():
                if self._publishing.done():
                    await self._publishing
                await self._more.wait()

    async def publish(self, *drafts: Draft) -> None:
        """Publish these now, in this order, and return once the stream has confirmed them."""
        for start in range(0, len(drafts), BURST):
            burst = drafts[start : start + BURST]
            self.confirmed += await asyncio.gather(*map(self._confirm, burst))

    async def pour(self, drafts: Iterable[Draft]) -> None:
        """Publish these without waiting for each: the stream's count afterwards confirms them all."""
        for draft in drafts:
            await self._stream.client.publish(draft.subject, draft.payload)
            # Without its payload, which nobody needs any more: these are many.
            kept = msgspec.structs.replace(draft, payload=b"")
            self.confirmed.append(Confirmed(kept, len(self.confirmed) + 1))
        await self._stream.holds(len(self.confirmed))

    async def _publish_on(self) -> None:
        clock = asyncio.get_running_loop().time
        due = clock()
        try:
            while not self._stopping:
                await asyncio.sleep(due - clock())  # the pace of the load
                due = max(due + BURST / self.rate, clock() - 1)
                await self.publish(*(self._agents.next() for _ in range(BURST)))
                async with self._more:
                    self._more.notify_all()
        finally:
            async with self._more:
                self._more.notify_all()

    async def _confirm(self, draft: Draft) -> Confirmed:
        """Publish a message until it is confirmed; its Nats-Msg-Id keeps it from being stored twice."""
        headers = {"Nats-Msg-Id": uuid.uuid4().hex}
        while True:
            try:
                ack = await self._js.publish(draft.subject, draft.payload, headers=headers)
            except (nats.errors.Error, TimeoutError):  # the server is away, as some rows want it
                await asyncio.sleep(RETRY_SECONDS)
            else:
                return Confirmed(draft, ack.seq)
