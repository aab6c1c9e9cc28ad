"""The durable consumer: what would lose messages, hold them up, or bring them more often than needed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nats.js.api import DeliverPolicy, ReplayPolicy

from tracker_daemon.batch import most_rows
from tracker_daemon.consumer import (
    consumer_losses,
    consumer_refusals,
    consumer_risks,
    redundant_filters,
)
from tracker_daemon.consumer.pull import EXPIRES_SECONDS
from tracker_daemon.doctor.finding import Finding, findings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from nats.js.api import ConsumerInfo, StreamInfo

    from tracker_daemon.config import Settings


def look(
    info: ConsumerInfo,
    limits: dict[str, Any],
    stream: StreamInfo,
    first_at: datetime | None,
    settings: Settings,
) -> list[Finding]:
    """What in the durable consumer keeps messages from being stored, and what slows them down.

    `limits`: its configuration as the server says it. `first_at`: when the oldest message of the stream came;
    None: it is empty.
    """
    config = info.config
    edit = f"nats consumer edit {info.stream_name} {info.name}"
    broken = [
        *consumer_refusals(config, settings.nats),
        *consumer_losses(config),
        *_refuses(limits, settings, edit),
    ]
    if info.paused:
        broken.append(
            f"the consumer is paused until {config.pause_until}, nothing is delivered: "
            f"nats consumer resume {info.stream_name} {info.name}"
        )
    warnings = [*consumer_risks(config), *_skips(info, first_at), *_throttles(info, settings, edit)]
    if redundant_filters(config, stream, settings.nats):
        warnings.append(
            "its filters leave nothing out, as the stream has no other subjects, and nats-server 2.10 brings "
            f"old messages very slowly for them: {edit} --filter='>'"
        )
    fine = (
        f"{info.name}: {info.num_pending} waiting, {info.num_ack_pending} unacknowledged, "
        f"{info.num_waiting} requests of daemons"
    )
    return findings("consumer", fine, broken=broken, warnings=warnings)


def _refuses(limits: dict[str, Any], settings: Settings, edit: str) -> Iterator[str]:
    """Why it would refuse what a daemon asks for."""
    for name, flag, limit, asked, unit in (
        ("max_batch", "batch", limits.get("max_batch", 0), _credit(settings), ""),
        ("max_bytes", "bytes", limits.get("max_bytes", 0), settings.batch.max_buffered_bytes, ""),
        ("max_expires", "expire", limits.get("max_expires", 0) / 1_000_000_000, EXPIRES_SECONDS, "s"),
    ):
        if 0 < limit < asked:
            yield (
                f"{name} is {limit}{unit}, and a daemon's requests, for {asked}{unit}, are refused: "
                f"{edit} --max-pull-{flag}={asked}{unit}"
            )
    if limits.get("priority_groups"):
        yield (
            "it serves priority groups, of which the requests of a daemon name none, so they are refused: "
            "name another consumer in TRACKER_NATS_DURABLE"
        )


def _skips(info: ConsumerInfo, first_at: datetime | None) -> Iterator[str]:
    """What it does not bring, or brings once more when it is made anew."""
    config, anew = info.config, f"nats consumer rm {info.stream_name} {info.name}, and the daemon makes one"
    if config.deliver_policy != DeliverPolicy.ALL and first_at and first_at < info.created:
        yield (
            f"the deliver policy is {config.deliver_policy}, and the stream has messages from before the "
            "consumer was made: if tracker-daemon verify misses any, another TRACKER_NATS_DURABLE takes them"
        )
    if config.inactive_threshold:
        yield (
            f"inactive_threshold is {config.inactive_threshold:g} s, and when no daemon asks for so long the "
            f"server deletes the consumer, and all that the stream holds comes once more: {anew} without"
        )
    if config.mem_storage:
        yield (
            "its state is in memory, and when nats-server starts anew all that the stream holds comes once "
            f"more: {anew} on disk"
        )


def _throttles(info: ConsumerInfo, settings: Settings, edit: str) -> Iterator[str]:
    config = info.config
    if config.replay_policy == ReplayPolicy.ORIGINAL:
        yield (
            "the replay policy is original, so what waits is delivered no faster than it once came: "
            f"nats consumer rm {info.stream_name} {info.name}, and the daemon makes one that is instant"
        )
    credit, limit = _credit(settings), config.max_ack_pending or -1
    if 0 < limit < credit:
        yield (
            f"max_ack_pending is {limit}, and a daemon that has room for {credit} messages waits in between: "
            f"{edit} --max-pending={max(credit, settings.nats.max_ack_pending)}"
        )
    if 0 < limit <= (info.num_ack_pending or 0):
        yield (
            f"{info.num_ack_pending} messages wait for their acknowledgement, the limit, and no more are "
            "delivered until some have it: see whether the daemons write, or raise it with "
            f"{edit} --max-pending={2 * limit}"
        )
    if config.max_waiting and (info.num_waiting or 0) >= config.max_waiting:
        yield (
            f"{info.num_waiting} requests wait, the limit max_waiting, and another daemon would be refused: "
            "see who else pulls from this consumer"
        )


def _credit(settings: Settings) -> int:
    """How many messages a daemon asks for at most."""
    return most_rows(settings.batch, settings.postgres.writers)
