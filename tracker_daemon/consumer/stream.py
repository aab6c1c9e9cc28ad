"""The stream and the durable consumer: made where missing, never changed where an operator made them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

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
from nats.js.errors import BadRequestError, NotFoundError

from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.js import JetStreamContext

    from tracker_daemon.config import NatsSettings

log = structlog.get_logger(__name__)

ACK_WAIT_SECONDS: Final = 60
DUPLICATE_WINDOW_SECONDS: Final = 120


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


async def ensure_consumer(js: JetStreamContext, settings: NatsSettings, stream: StreamInfo) -> ConsumerInfo:
    """Return the durable pull consumer, made if it is missing; warn of settings that would lose messages."""
    try:
        info: ConsumerInfo = await js.consumer_info(settings.stream, settings.durable)
    except NotFoundError:
        if not settings.manage_stream:
            raise Misconfigured(
                f"the durable consumer {settings.durable} of the stream {settings.stream} does not exist: "
                "create it, or set TRACKER_NATS_MANAGE_STREAM=true"
            ) from None
        info = await js.add_consumer(
            settings.stream,
            ConsumerConfig(
                durable_name=settings.durable,
                filter_subjects=filters(stream, settings),
                ack_policy=AckPolicy.EXPLICIT,
                ack_wait=ACK_WAIT_SECONDS,
                max_deliver=-1,
                max_ack_pending=settings.max_ack_pending,
            ),
        )
        log.info("durable consumer made", stream=settings.stream, durable=settings.durable)
    for risk in (*consumer_losses(info.config), *consumer_risks(info.config)):
        log.warning("the durable consumer is not safe", durable=settings.durable, risk=risk)
    for refusal in consumer_refusals(info.config, settings):
        raise Misconfigured(refusal)
    return info


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
