"""NATS: the server, its clock, JetStream's account; then stream and consumer."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

import nats.errors
import nats.js.errors
import orjson
from nats.js.api import ConsumerInfo, StreamInfo

from tracker_daemon.consumer import connect, disconnect
from tracker_daemon.doctor import clock, consumer, stream
from tracker_daemon.doctor.finding import Finding, findings, oldest
from tracker_daemon.errors import Misconfigured

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.config import NatsSettings, Settings
    from tracker_daemon.consumer import Client

OLDEST_SERVER: Final = (2, 10)
"""Older ones know no consumer with two subjects."""
REQUEST_SECONDS: Final = 5


async def look(settings: Settings) -> AsyncIterator[Finding]:
    """Everything found in NATS; the first error ends it."""
    client = await connect(settings.nats, lambda _: None, patient=False)
    try:
        version, url = client.connected_server_version, client.connected_url
        server = f"nats-server {version.major}.{version.minor}.{version.patch}"
        seen = f"{server} at {url and url.netloc.rpartition('@')[2]}"
        yield oldest("nats", seen, (version.major, version.minor), OLDEST_SERVER)
        if settings.nats.mode == "jetstream":
            async for finding in _jetstream(client, settings):
                yield finding
    finally:
        await disconnect(client)


async def _jetstream(client: Client, settings: Settings) -> AsyncIterator[Finding]:
    usage: dict[str, Any] = {}
    try:
        usage = await _ask(client, "INFO")
        for finding in account(usage):
            yield finding
    except nats.js.errors.ServiceUnavailableError as error:
        why = error.description or "nobody answers"
        remedy = "enable it on the server and for the account, or set TRACKER_NATS_MODE=core"
        yield Finding("jetstream", "broken", f"JetStream is not available ({why}): {remedy}")
        return
    except Misconfigured:
        # A daemon does without, so its user need not have the right.
        yield Finding("jetstream", "ok", "the limits of the account are not told to this user")
    asked, name = datetime.now(UTC), settings.nats.stream
    try:
        answer = await _ask(client, f"STREAM.INFO.{name}")
    except nats.js.errors.NotFoundError:
        yield (
            await _other_stream(client, settings.nats)
            or _too_large(usage, settings.nats)
            or _missing("stream", f"stream {name}", settings.nats)
        )
        return
    if "ts" in answer:
        yield clock.compare("nats clock", asked, datetime.fromisoformat(answer["ts"]), datetime.now(UTC))
    state = answer["state"]
    info = StreamInfo.from_response(answer)
    for finding in (
        *stream.look(info, settings.nats),
        stream.payload(info, settings.nats, client.max_payload),
        *stream.space(info.config, state),
    ):
        yield finding
    try:
        durable = await _ask(client, f"CONSUMER.INFO.{name}.{settings.nats.durable}")
    except nats.js.errors.NotFoundError:
        yield _missing("consumer", f"durable consumer {settings.nats.durable}", settings.nats)
        return
    first_at = datetime.fromisoformat(state["first_ts"]) if state["messages"] else None
    limits = durable["config"]  # which nats-py's own types leave out
    for finding in consumer.look(ConsumerInfo.from_response(durable), limits, info, first_at, settings):
        yield finding


async def _ask(client: Client, subject: str) -> dict[str, Any]:
    """JetStream's answer as it is: nats-py's own types leave its times out.

    Raise `Misconfigured` when there is none, as where the user may not ask.
    """
    api = f"$JS.API.{subject}"
    try:
        reply = await client.request(api, timeout=REQUEST_SECONDS)
    except nats.errors.NoRespondersError as error:
        raise nats.js.errors.ServiceUnavailableError from error
    except nats.errors.TimeoutError as error:
        last = str(client.last_error)  # in lower case
        why = f" ({last})" if api.lower() in last else ""
        raise Misconfigured(
            f"JetStream does not answer {api} within {REQUEST_SECONDS} s{why}: let the user publish to "
            "$JS.API.> and $JS.ACK.>, and subscribe to _INBOX.>; or see whether the cluster has its quorum"
        ) from error
    answer: dict[str, Any] = orjson.loads(reply.data)
    if "error" in answer:
        raise nats.js.errors.APIError.from_error(answer["error"])
    return answer


def account(usage: dict[str, Any]) -> list[Finding]:
    """How much of its limits the account has used, tier by tier where it has tiers."""
    warnings, seen = [], []
    for tier, part in {"": usage, **usage.get("tiers", {})}.items():
        for kind in ("storage", "memory"):
            used, limit = part[kind], part["limits"][f"max_{kind}"]
            if limit > 0:
                seen.append(f"{stream.share(used, limit)} of the account's {f'{kind} {tier}'.rstrip()}")
                if used > stream.FULL * limit:
                    warnings.append(
                        f"{seen[-1]} is used: raise max_{'store' if kind == 'storage' else 'mem'} of the "
                        "account, or lower the max_bytes of its streams"
                    )
    return findings("jetstream", ", ".join(seen) or "the account has no limits", warnings=warnings)


async def _other_stream(client: Client, settings: NatsSettings) -> Finding | None:
    """What is wrong if another stream captures a subject already, so that ours could not be made."""
    for subject in (settings.decisions_subject, settings.outcomes_subject):
        with contextlib.suppress(nats.js.errors.NotFoundError, nats.errors.TimeoutError):
            name = await client.jetstream().find_stream_name_by_subject(subject)
            return Finding(
                "stream", "broken", f"{subject} is captured by {name}: set TRACKER_NATS_STREAM to it"
            )
    return None


def _too_large(usage: dict[str, Any], settings: NatsSettings) -> Finding | None:
    """What is wrong if the account has no room for the stream that the daemon would make."""
    limit: int = usage["limits"]["max_storage"] if usage else -1
    room = limit - usage.get("reserved_storage", 0)
    wanted = settings.stream_max_bytes * settings.stream_replicas
    if not settings.manage_stream or limit <= 0 or wanted <= room:
        return None
    return Finding(
        "stream",
        "broken",
        f"no stream {settings.stream} yet, and the daemon cannot make it: the account has room for {room} "
        f"bytes, TRACKER_NATS_STREAM_MAX_BYTES is {settings.stream_max_bytes}, for each replica: lower that, "
        "or raise max_store of the account",
    )


def _missing(part: str, what: str, settings: NatsSettings) -> Finding:
    if settings.manage_stream:
        return Finding(part, "ok", f"no {what} yet: the daemon makes it at its first start")
    return Finding(part, "broken", f"no {what}: create it, or set TRACKER_NATS_MANAGE_STREAM=true")
