"""The stream and the durable consumer: made where missing, never changed where an operator made them.

What an earlier version made loses the filters that this one would not give it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import nats.errors
import orjson
import structlog
from nats.js.api import (
    AckPolicy,
    ConsumerConfig,
    ConsumerInfo,
    DiscardPolicy,
    RetentionPolicy,
    StorageType,
    StreamConfig,
    StreamInfo,
)
from nats.js.errors import APIError, BadRequestError, NotFoundError

from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.aio.client import Client
    from nats.js import JetStreamContext

    from tracker_daemon.config import NatsSettings

log = structlog.get_logger(__name__)

ACK_WAIT_SECONDS: Final = 60
DUPLICATE_WINDOW_SECONDS: Final = 120
REQUEST_SECONDS: Final = 5


def subjects(settings: NatsSettings) -> list[str]:
    """The two subjects that are consumed."""
    return [settings.decisions_subject, settings.outcomes_subject]


def alone(info: StreamInfo, settings: NatsSettings) -> bool:
    """Whether the stream has the two subjects and no other: then each sequence is a message of theirs."""
    return set(info.config.subjects or ()) == set(subjects(settings))


def filters(info: StreamInfo, settings: NatsSettings) -> list[str] | None:
    """What a consumer of the stream has to ask for to get the two subjects; None: it gets no other anyway."""
    # With two filters nats-server 2.10 reads a whole block of old messages from disk for each one of them.
    return None if alone(info, settings) else subjects(settings)


async def ensure_stream(js: JetStreamContext, settings: NatsSettings) -> StreamInfo:
    """Return the stream, made if it is missing and `manage_stream` is on."""
    try:
        info = await js.stream_info(settings.stream)
    except NotFoundError:
        if not settings.manage_stream:
            raise Misconfigured(
                f"the stream {settings.stream} does not exist: "
                "create it, or set TRACKER_NATS_MANAGE_STREAM=true"
            ) from None
    else:
        if missing := missing_subjects(info, settings):
            raise Misconfigured(
                f"the stream {settings.stream} does not capture {missing}: add it to its subjects"
            )
        return info
    config = StreamConfig(
        name=settings.stream,
        subjects=subjects(settings),
        storage=StorageType.FILE,
        retention=RetentionPolicy.LIMITS,
        discard=DiscardPolicy.NEW,
        max_age=settings.stream_max_age_seconds,
        max_bytes=settings.stream_max_bytes,
        num_replicas=settings.stream_replicas,
        # The server refuses a window longer than messages live.
        duplicate_window=min(DUPLICATE_WINDOW_SECONDS, settings.stream_max_age_seconds),
    )
    try:
        info = await js.add_stream(config)
    except BadRequestError as error:
        raise Misconfigured(
            f"the stream {settings.stream} cannot be made: {error.description}; if another stream captures "
            f"{' and '.join(subjects(settings))}, name it in TRACKER_NATS_STREAM"
        ) from error
    log.info("stream made", stream=settings.stream, subjects=config.subjects)
    return info


def missing_subjects(info: StreamInfo, settings: NatsSettings) -> str:
    """Which of the two subjects the stream does not capture, in words; empty: none."""
    return _not_under(info.config.subjects or [], settings)


def _unfiltered(config: ConsumerConfig, settings: NatsSettings) -> str:
    filters = config.filter_subjects or ([config.filter_subject] if config.filter_subject else [">"])
    return _not_under(filters, settings)


def _not_under(patterns: list[str], settings: NatsSettings) -> str:
    wanted = subjects(settings)
    return " and ".join(subject for subject in wanted if not any(_matches(p, subject) for p in patterns))


def _matches(pattern: str, subject: str) -> bool:
    """Whether a subject falls under a pattern with the wildcards * (one token) and > (all that follow)."""
    wanted, tokens = pattern.split("."), subject.split(".")
    if wanted[-1] == ">":
        wanted.pop()
        tokens = tokens[: len(wanted)] if len(tokens) > len(wanted) else []
    return len(wanted) == len(tokens) and all(w in ("*", t) for w, t in zip(wanted, tokens, strict=True))


async def ensure_consumer(client: Client, settings: NatsSettings, stream: StreamInfo) -> ConsumerInfo:
    """Return the durable pull consumer, made if it is missing; warn of settings that would lose messages."""
    js = client.jetstream()
    try:
        info: ConsumerInfo = await js.consumer_info(settings.stream, settings.durable)
    except NotFoundError:
        if not settings.manage_stream:
            raise Misconfigured(
                f"the durable consumer {settings.durable} of the stream {settings.stream} does not exist: "
                "create it, or set TRACKER_NATS_MANAGE_STREAM=true"
            ) from None
        info = await js.add_consumer(settings.stream, _made(settings, filters(stream, settings)))
        log.info("durable consumer made", stream=settings.stream, durable=settings.durable)
    if redundant_filters(info.config, stream, settings) and _of_our_making(info.config, settings):
        await _take_filters_away(client, settings)
    for risk in (*consumer_losses(info.config), *consumer_risks(info.config)):
        log.warning("the durable consumer is not safe", durable=settings.durable, risk=risk)
    for refusal in consumer_refusals(info.config, settings):
        raise Misconfigured(refusal)
    return info


def _made(settings: NatsSettings, filters: list[str] | None) -> ConsumerConfig:
    """The durable consumer as a daemon makes it."""
    return ConsumerConfig(
        durable_name=settings.durable,
        filter_subjects=filters,
        ack_policy=AckPolicy.EXPLICIT,
        ack_wait=ACK_WAIT_SECONDS,
        max_deliver=-1,
        max_ack_pending=settings.max_ack_pending,
    )


def redundant_filters(config: ConsumerConfig, stream: StreamInfo, settings: NatsSettings) -> bool:
    """Whether a consumer names the two subjects of a stream that has no other."""
    return bool(config.filter_subjects) and alone(stream, settings) and not _unfiltered(config, settings)


def _of_our_making(config: ConsumerConfig, settings: NatsSettings) -> bool:
    """Whether nothing tells it from one that an earlier version made, with filters in any case."""
    made = _made(settings, subjects(settings)).evolve(max_ack_pending=config.max_ack_pending)
    as_made = made.as_dict().items() <= config.as_dict().items()
    return settings.manage_stream and as_made and not config.description


async def _take_filters_away(client: Client, settings: NatsSettings) -> None:
    """Have the durable consumer name no subject any more; its position and what it waits for stay."""
    name = f"{settings.stream}.{settings.durable}"
    try:
        # As the server has it: nats-py's own types leave limits out, and they would be gone.
        config = (await _ask(client, f"INFO.{name}"))["config"]
        del config["filter_subjects"]
        update = {"stream_name": settings.stream, "config": config, "action": "update"}
        await _ask(client, f"CREATE.{name}", update)
    except (APIError, nats.errors.Error) as error:  # it delivers the same with them
        log.warning(
            "the filters of the durable consumer stay, old messages may come slowly",
            durable=settings.durable,
            reason=str(error),
        )
    else:
        log.info("needless filters taken from the durable consumer", durable=settings.durable)


async def _ask(client: Client, what: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
    asked = orjson.dumps(request) if request else b""
    reply = await client.request(f"$JS.API.CONSUMER.{what}", asked, timeout=REQUEST_SECONDS)
    answer: dict[str, Any] = orjson.loads(reply.data)
    if "error" in answer:
        raise APIError.from_error(answer["error"])
    return answer


def consumer_refusals(config: ConsumerConfig, settings: NatsSettings) -> Iterator[str]:
    """Why a daemon will not take messages from an operator's consumer, a sentence each."""
    if missing := _unfiltered(config, settings):
        yield (
            f"the durable consumer {settings.durable} does not deliver {missing}: add it to its filter, "
            "or name another consumer in TRACKER_NATS_DURABLE"
        )
    if config.headers_only:
        yield f"the durable consumer {settings.durable} delivers headers only: turn that off"
    if config.deliver_subject:
        yield f"the consumer {settings.durable} is a push consumer: name another in TRACKER_NATS_DURABLE"


def consumer_losses(config: ConsumerConfig) -> Iterator[str]:
    """What in an operator's consumer would lose messages, a sentence each."""
    if config.ack_policy != AckPolicy.EXPLICIT:
        yield "its ack policy is not explicit, so messages can be lost in a crash: make it anew with explicit"
    if config.max_deliver is not None and config.max_deliver > 0:
        yield (
            f"max_deliver is {config.max_deliver}, and an outage longer than that many deliveries loses "
            "messages: set it to -1"
        )


def consumer_risks(config: ConsumerConfig) -> Iterator[str]:
    """What in an operator's consumer would bring messages more often than needed, a sentence each."""
    if config.ack_wait is not None and config.ack_wait < ACK_WAIT_SECONDS / 2:
        yield (
            f"ack_wait is {config.ack_wait:g} s, and messages are delivered again while they are being "
            f"written: set it to {ACK_WAIT_SECONDS} s"
        )
