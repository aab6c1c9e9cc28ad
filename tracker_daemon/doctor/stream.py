"""The stream: what its configuration means for an outage, a restart, a large message; what room is left."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from nats.js.api import DiscardPolicy, RetentionPolicy, StorageType

from tracker_daemon.consumer import DUPLICATE_WINDOW_SECONDS, missing_subjects, subjects
from tracker_daemon.doctor.finding import Finding, findings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nats.js.api import StreamConfig, StreamInfo

    from tracker_daemon.config import NatsSettings

OUTAGE_SECONDS: Final = 3 * 86400
"""What a stream should outlast: what breaks on Friday evening is found, and mended, on Monday."""
FULL: Final = 0.8
"""The part of a limit from which on little room is left."""
SPAN_SECONDS: Final = 3600
"""A rate over less than that says nothing of the days to come."""

_ANEW: Final = "nats stream rm {stream}, and the daemon makes it anew"


def look(info: StreamInfo, settings: NatsSettings) -> list[Finding]:
    """What the configuration keeps from the daemon, and what it loses on a bad day."""
    config = info.config
    fine = (
        f"{settings.stream}: {config.storage}, replicas {config.num_replicas}, {info.state.messages} messages"
    )
    return findings(
        "stream",
        fine,
        broken=_misses(info, settings),
        warnings=[*_forgets(config), *_loses(info), *_captures(config, settings)],
    )


def payload(info: StreamInfo, settings: NatsSettings, of_server: int) -> Finding:
    """The largest payload that gets through, and what bounds it; `of_server`: its max_payload, in bytes."""
    wanted, of_stream = settings.max_payload_bytes, info.config.max_msg_size or -1
    if 0 <= of_stream < min(wanted, of_server):
        return Finding(
            "payload",
            "warning",
            f"at most {_size(of_stream)}, the max_msg_size of the stream; what is larger is dropped, and "
            f"only a publisher that asks is told: nats stream edit {info.config.name} --max-msg-size=-1",
        )
    if of_server >= wanted:
        return Finding("payload", "ok", f"at most {_size(wanted)}, TRACKER_NATS_MAX_PAYLOAD_BYTES")
    seen = f"at most {_size(of_server)}, the server's max_payload"
    if "max_payload_bytes" not in settings.model_fields_set:
        return Finding("payload", "ok", seen)
    remedy = (
        f"set max_payload there to {_size(wanted)}, as TRACKER_NATS_MAX_PAYLOAD_BYTES says, or lower that"
    )
    return Finding("payload", "warning", f"{seen}: {remedy}")


def space(config: StreamConfig, state: dict[str, Any]) -> list[Finding]:
    """How full the stream is and how long an outage it can hold; `state` as the server says it."""
    edit, warnings = f"nats stream edit {config.name}", []
    seen = [f"{state['messages']} messages"]
    for used, limit, flag in (
        (state["bytes"], config.max_bytes, "max-bytes"),
        (state["messages"], config.max_msgs, "max-msgs"),
    ):
        if limit and limit > 0:
            seen.append(f"{share(used, limit)} of {flag.replace('-', '_')} used")
            if used > FULL * limit:
                then = "new messages are refused" if config.discard == DiscardPolicy.NEW else "the oldest go"
                warnings.append(f"{seen[-1]}, and when it is full {then}: {edit} --{flag}={2 * limit}")
    if (rate := _rate(state)) and config.max_bytes and config.max_bytes > 0:
        holds = config.max_bytes / rate
        seen.append(f"max_bytes holds {_hours(holds)} at the rate of now")
        if holds < OUTAGE_SECONDS:
            enough = f"{edit} --max-bytes={rate * OUTAGE_SECONDS:.0f}"
            warnings.append(f"{seen[-1]}, an outage may last {_hours(OUTAGE_SECONDS)}: {enough}")
    return findings("stream space", ", ".join(seen), warnings=warnings)


def _rate(state: dict[str, Any]) -> float | None:
    """Bytes a second over what the stream holds; None: that is too short a time to tell."""
    first, last = (datetime.fromisoformat(state[end]) for end in ("first_ts", "last_ts"))
    seconds = (last - first).total_seconds()
    return state["bytes"] / seconds if state["messages"] and seconds >= SPAN_SECONDS else None


def _misses(info: StreamInfo, settings: NatsSettings) -> Iterator[str]:
    """Why messages of the agents do not get into the stream, or not to the daemon."""
    config = info.config
    if config.mirror:
        yield (
            f"the stream {config.name} is a mirror, and captures nothing itself: name the stream that it is "
            f"a copy of, {config.mirror.name}, in TRACKER_NATS_STREAM"
        )
    elif missing := missing_subjects(info, settings):
        yield f"the stream {config.name} does not capture {missing}: add it to its subjects"
    if config.sealed:
        yield (
            "the stream is sealed, for ever, and takes no more messages: once all of it is acknowledged, "
            f"{_ANEW.format(stream=config.name)}"
        )


def _forgets(config: StreamConfig) -> Iterator[str]:
    """What the stream throws away before a daemon may have stored it."""
    edit = f"nats stream edit {config.name}"
    if config.max_age and config.max_age < OUTAGE_SECONDS:
        yield (
            f"max_age is {_hours(config.max_age)}, an outage may last {_hours(OUTAGE_SECONDS)}, "
            f"and what expires before it is stored is lost: {edit} --max-age=7d"
        )
    if config.discard == DiscardPolicy.OLD and any(
        limit and limit > 0 for limit in (config.max_bytes, config.max_msgs)
    ):
        yield (
            "the discard policy is old, so a full stream pushes out what may not be stored yet, and no "
            f"publisher is told: {edit} --discard=new"
        )
    if config.max_msgs_per_subject > 0:
        refuses = config.discard_new_per_subject
        so = "more are refused" if refuses else "a new message pushes out one that may not be stored yet"
        flags = "--max-msgs-per-subject=-1" + (" --no-discard-per-subject" if refuses else "")
        yield f"max_msgs_per_subject is {config.max_msgs_per_subject}, so {so}: {edit} {flags}"
    if config.allow_rollup_hdrs:
        yield (
            "a message with the header Nats-Rollup deletes all that came before it, stored or not: "
            f"{edit} --no-allow-rollup"
        )


def _loses(info: StreamInfo) -> Iterator[str]:
    """What of the stream would not outlive a message's acknowledgement, or a server."""
    config = info.config
    again = f"while agents rest and nothing waits, {_ANEW.format(stream=config.name)}"
    if config.retention != RetentionPolicy.LIMITS:
        yield (
            f"the retention is {config.retention}, which forgets what is acknowledged, so nothing can be "
            f"verified or consumed once more: {again}"
        )
    if config.storage == StorageType.MEMORY:
        yield f"the storage is memory, so a restart of nats-server loses what is not stored yet: {again}"
    if config.no_ack:
        yield (
            "publishers hear no acknowledgement, not even those that ask: "
            f"nats stream edit {config.name} --ack"
        )
    if info.cluster and info.cluster.name and config.num_replicas == 1:
        yield (
            f"one replica in the cluster {info.cluster.name}, so the death of a single server stops the "
            f"stream or loses it: nats stream edit {config.name} --replicas=3"
        )


def _captures(config: StreamConfig, settings: NatsSettings) -> Iterator[str]:
    edit = f"nats stream edit {config.name}"
    wanted = subjects(settings)
    if more := [subject for subject in config.subjects or [] if subject not in wanted]:
        flags = " ".join(f"--subjects={subject}" for subject in wanted)
        yield (
            f"the stream captures {', '.join(more)} too: what is not for the daemon fills it, and a request "
            f"on such a subject is answered by the stream: {edit} {flags}"
        )
    if transform := config.subject_transform:
        yield (
            f"the stream stores {transform.src or '>'} under {transform.dest}, and a daemon consumes only "
            f"{' and '.join(wanted)}: {edit} --no-transform"
        )
    # The server refuses a window longer than messages live; a mirror has none.
    enough = min(DUPLICATE_WINDOW_SECONDS, config.max_age or DUPLICATE_WINDOW_SECONDS)
    if (config.duplicate_window or enough) < enough:
        yield (
            f"the duplicate window is {config.duplicate_window:g} s, and what an agent publishes again after "
            f"that, without an id of its own, is stored twice: {edit} --dupe-window={enough:g}s"
        )


def share(used: int, limit: int) -> str:
    """How much of a limit is used, in percent."""
    return f"{100 * used / limit:.0f} %"


def _size(number: int) -> str:
    return f"{number >> 20} MiB" if number % (1 << 20) == 0 else f"{number} bytes"


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h"
