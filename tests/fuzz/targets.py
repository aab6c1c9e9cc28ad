"""What is fuzzed: each target takes any bytes and fails only if a promise is broken."""

from __future__ import annotations

import asyncio
import json
import math
from typing import TYPE_CHECKING, Any, Final

import msgspec
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, ConsumerInfo, SequenceInfo
from structlog.testing import capture_logs

from tracker_daemon.config import load
from tracker_daemon.consumer.jetstream import JetStreamConsumer
from tracker_daemon.consumer.position import Gaps, parse_reply
from tracker_daemon.consumer.pull import PullRequest
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import (
    REASONS,
    Contract,
    Decision,
    Message,
    Outcome,
    contract_field,
    dead_letter,
)
from tracker_daemon.messages import decode as decode_message

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

CONTRACT: Final = Contract(max_payload_bytes=20_000, embedding_dimensions=3)
LONG_CONTRACT: Final = Contract(embedding_dimensions=3)
LONG_BYTES: Final = 128 * 1024
"""Where a linear decoder needs milliseconds, and a quadratic one half a minute or gigabytes."""

PLACES: Final = {"confidence": 4, "propensity": 10, "cost_usd": 6, "pnl": 8}
LENGTHS: Final = {
    **dict.fromkeys(("agent_name", "model", "experiment", "variant", "embedding_model"), 100),
    "decision_type": 50,
    **dict.fromkeys(("symbol", "action", "outcome"), 20),
}


# Payloads


def decode(data: bytes) -> None:
    """Decode the bytes as a payload of either subject; what comes out, the tables can take."""
    for subject in (CONTRACT.decisions_subject, CONTRACT.outcomes_subject):
        _decode(data, subject, CONTRACT)


def repeat(data: bytes) -> None:
    """Decode a long payload: parts between bytes 0xFF; the second and the fourth repeat to half its size.

    What is quadratic in a payload's length runs into the fuzzer's bounds of time or memory.
    """
    parts = data.split(b"\xff", 4)
    for index in range(1, len(parts), 2):
        parts[index] *= LONG_BYTES // 2 // max(len(parts[index]), 1)
    payload = b"".join(parts)
    for subject in (CONTRACT.decisions_subject, CONTRACT.outcomes_subject):
        _decode(payload, subject, LONG_CONTRACT)


def _decode(payload: bytes, subject: str, contract: Contract) -> None:
    text = payload[:200].decode("utf-8", "surrogateescape")
    message = Message(
        subject,
        payload,
        stream="LLM",
        sequence=7,
        published_ns=1_772_461_800_123_456_789,
        headers={text: text},
    )
    try:
        record = decode_message(message, contract)
    except InvalidPayload as error:
        _check_refusal(message, error)
        return
    assert record == decode_message(message, contract)
    if isinstance(record, Decision):
        assert subject == contract.decisions_subject
        assert len(record.content_hash) == 32
        _check_embedding(record)
        _check_fields(record)
        if record.first_outcome is not None:
            assert record.first_outcome.decision_id == record.id
            _check_fields(record.first_outcome)
    else:
        assert subject == contract.outcomes_subject
        _check_fields(record)


def _check_refusal(message: Message, error: InvalidPayload) -> None:
    assert error.reason in set(REASONS) - {"id_conflict", "rejected_by_database", "unknown_subject"}
    assert error.detail
    assert contract_field(error) is None or error.field is not None
    letter = dead_letter(message, error)
    for name in ("subject", "stream", "field", "detail", "headers"):
        value = getattr(letter, name)
        assert value is None or _storable(value), name
    assert letter.headers is not None
    assert all(map(_storable, _texts(json.loads(letter.headers))))
    assert letter.payload == message.payload


def _check_fields(record: Decision | Outcome) -> None:
    for name, value in msgspec.structs.asdict(record).items():
        if isinstance(value, str):
            assert _storable(value), name
            assert len(value) <= LENGTHS.get(name, len(value)), name
    for name in ("context", "extra"):
        text = getattr(record, name, None)
        if text is not None:
            assert text[0] == "{", name
            assert all(map(_storable, _texts(json.loads(text, object_pairs_hook=list, parse_int=str)))), name
    for name, places in PLACES.items():
        number = getattr(record, name, None)
        if number is not None:
            assert number.as_tuple().exponent == -places, name
            assert len(number.as_tuple().digits) <= 20, name
    for name in ("created_at", "observed_at"):
        time = getattr(record, name, None)
        assert time is None or time.utcoffset().total_seconds() == 0, name
    for name in ("tokens_used", "latency_ms"):
        count = getattr(record, name, None)
        assert count is None or 0 <= count < 2**31, name


def _check_embedding(record: Decision) -> None:
    if record.prompt_embedding is not None:
        numbers = record.prompt_embedding.to_list()
        assert len(numbers) == CONTRACT.embedding_dimensions
        assert all(map(math.isfinite, numbers))


def _storable(text: str) -> bool:
    """Whether PostgreSQL's text can hold it: neither U+0000 nor a lone surrogate."""
    return "\x00" not in text and not any("\ud800" <= character <= "\udfff" for character in text)


def _texts(value: Any) -> Iterable[str]:
    """Every string of a JSON value, keys too."""
    waiting = [value]
    while waiting:
        value = waiting.pop()
        if isinstance(value, str):
            yield value
        elif isinstance(value, dict):
            waiting += [*value.keys(), *value.values()]
        elif isinstance(value, list | tuple):
            waiting += value


# Reply subjects


def reply(data: bytes) -> None:
    """Parse each line as a reply subject; count the gaps between those that are one."""
    gaps = Gaps()
    for number, line in enumerate(data.decode("utf-8", "replace").split("\n")):
        try:
            position = parse_reply(line)
        except ValueError:
            continue
        assert parse_reply(_subject_of(position)) == position
        if number == 0:
            gaps.attach(_standing_at(position.consumer_sequence, position.stream_sequence), alone=True)
        skipped = gaps.skipped(position)
        assert isinstance(skipped, int)
        assert skipped >= 0


def _subject_of(position: msgspec.Struct) -> str:
    stream, *numbers = [str(getattr(position, name)) for name in position.__struct_fields__]
    return ".".join(("$JS.ACK", stream, "tracker-daemon", *numbers))


def _standing_at(consumer_sequence: int, stream_sequence: int) -> ConsumerInfo:
    delivered = SequenceInfo(consumer_seq=consumer_sequence, stream_seq=stream_sequence)
    return ConsumerInfo("D", "S", ConsumerConfig(), None, delivered)  # type: ignore[arg-type]


# Status messages

INBOX: Final = "_INBOX.fuzz"
_NATS = load(environ={}).nats


def status(data: bytes) -> None:
    """Take the bytes as the headers of a status message: a request goes on, or the way is free for another.

    The first byte says how many messages the request has brought, and whether the status is for this request.
    """
    if data:
        asyncio.run(_status(data[0], data[1:]))


async def _status(first: int, headers: bytes) -> None:
    client = Client()
    failures: list[Exception] = []
    consumer = JetStreamConsumer(client, _NATS, lambda *_: None, lambda: (1000, 2**25), failures.append)
    subscription, consumer._attached_on = consumer._subscription, 0
    request = PullRequest(f"{INBOX}.1", connection=0, credit=1000, delivered=first // 2)
    subscription.inbox, subscription.request = INBOX, request
    subject = f"{INBOX}.{1 + first % 2}"
    try:
        parsed = await client._process_headers(b"NATS/1.0" + headers)
    except (ValueError, IndexError):
        return  # the client does not hand over what it cannot parse
    with capture_logs():
        await consumer._on_message(Msg(_client=client, subject=subject, headers=parsed))
    assert not failures
    goes_on = first % 2 == 1 or (parsed or {}).get("Status") == "100"
    assert subscription.request is (request if goes_on else None)
    assert consumer._attached_on == 0 or not goes_on


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    "decode": decode,
    "repeat": repeat,
    "reply": reply,
    "status": status,
}
