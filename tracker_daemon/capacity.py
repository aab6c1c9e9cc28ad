"""What so many decisions a second take: cores, disk, memory, network; and what gives first."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise
from math import ceil, isfinite
from typing import Final

import msgspec
from msgspec import Struct

from tracker_daemon.backlog import MAX_SHARE
from tracker_daemon.config.settings import NatsSettings
from tracker_daemon.errors import InvalidQuestion

UTILIZATION: Final = 0.7
"""Part of a core's time that is planned for: at more of it messages wait."""
ROOM: Final = 1.3
"""Disk for each byte stored: what is replaced stays until it is vacuumed."""
STREAM_BYTES: Final[int] = NatsSettings.model_fields["stream_max_bytes"].default
"""What a stream holds unless `TRACKER_NATS_STREAM_MAX_BYTES` says otherwise."""


class Cost(Struct, frozen=True):
    """What one message takes.

    Bytes: on disk, of these in indexes (`hot`: they belong in memory), in PostgreSQL's log, in the stream.
    Microseconds of CPU: of the daemon, of PostgreSQL, of nats-server.
    """

    disk: float = 0
    hot: float = 0
    log: float = 0
    stream: float = 0
    daemon: float = 0
    postgres: float = 0
    nats: float = 0

    def __add__(self, other: Cost) -> Cost:
        """What both take."""
        return Cost(*(a + b for a, b in zip(_numbers(self), _numbers(other), strict=True)))

    def __mul__(self, times: float) -> Cost:
        """What so many take."""
        return Cost(*(number * times for number in _numbers(self)))


# What follows is what case `sizes` of the benchmark found on 2026-11-23, on two cores of an x86-64 server
# with PostgreSQL 18, nats-server 2.15 and Python 3.11.
DECISION: Final = {
    544: Cost(1_049, 553, 1_032, 587, 33, 16, 8),
    2_695: Cost(5_297, 588, 3_325, 2_738, 48, 28, 13),
    19_977: Cost(23_362, 634, 22_124, 20_020, 138, 102, 38),
}
"""A decision, by its bytes in JSON."""
OUTCOME: Final = Cost(192, 66, 3_126, 192, 27, 57, 7)
TEXTS: Final = {
    544: Cost(585, 219, 1_249, daemon=1, postgres=31),
    2_695: Cost(3_201, 467, 6_087, daemon=3, postgres=305),
    19_977: Cost(13_741, 1_670, 20_423, daemon=16, postgres=2496),
}
"""A decision's place in the index of full-text search, by its bytes in JSON."""
SITUATION: Final = Cost(431, 263, 730, daemon=94, postgres=32)
"""A decision's place in the index of situations."""
EMBEDDING: Final = Cost(8_618, 0, 6_979, 17_725, 144, 40, 21)
"""An embedding of 1,536 numbers that comes with its decision."""
EMBEDDED: Final = Cost(8_343, 4_128, 8_504, daemon=67, postgres=7945)
"""Its place in the index of embeddings."""
DIMENSIONS: Final = 1536


class Load(Struct, frozen=True, kw_only=True):
    """Decisions: how many a second, and for how long each is kept.

    Of one: bytes in JSON without its embedding, chance of an outcome, numbers of its embedding (0: none).
    """

    rate: float
    kept: timedelta
    size: int = 2_700
    outcomes: float = 1.0
    dimensions: int = 0

    def __post_init__(self) -> None:
        """Refuse what nobody publishes."""
        for what, value, most in (
            ("decisions a second", self.rate, 1e7),
            ("bytes of a decision", self.size, 4 << 20),
            ("seconds that a decision is kept", self.kept.total_seconds(), 1e10),
        ):
            if not (isfinite(value) and 0 < value <= most):
                raise InvalidQuestion(f"{what} must be more than 0 and at most {most:,.0f}, not {value:g}")
        if not 0 <= self.outcomes <= 1:
            raise InvalidQuestion(f"outcomes must be a part of all decisions, 0 to 1, not {self.outcomes:g}")
        if not 0 <= self.dimensions <= 16_000:
            raise InvalidQuestion(f"an embedding has up to 16,000 numbers, not {self.dimensions}")


class Limit(Struct, frozen=True):
    """From so many decisions a second on, `what` falls behind, and what to do then."""

    rate: float
    what: str
    then: str


class Plan(Struct, frozen=True, kw_only=True):
    """What a load takes; `disk` by what it is for, cores at 70 % of their time, the limits lowest first.

    `outage_seconds`: for how long a stream of the default size holds what PostgreSQL cannot take.
    """

    load: Load
    decisions: float
    disk_bytes: dict[str, float]
    memory_bytes: float
    log_bytes_per_second: float
    stream_bytes_per_second: float
    outage_seconds: float
    postgres_bytes_per_second: float
    cores: dict[str, float]
    daemons: int
    limits: tuple[Limit, ...]


def plan(load: Load) -> Plan:
    """Reckon what a load takes from what one message was measured to take."""
    times = load.dimensions / DIMENSIONS
    ingest = {
        "decisions": _at(DECISION, load.size),
        "outcomes": OUTCOME * load.outcomes,
        "embeddings": EMBEDDING * times,
    }
    indexes = {"texts": _at(TEXTS, load.size), "situations": SITUATION, "embeddings": EMBEDDED * times}
    message, places = sum(ingest.values(), Cost()), sum(indexes.values(), Cost())
    decisions = load.rate * load.kept.total_seconds()
    disk = {name: cost.disk for name, cost in ingest.items()}
    disk |= {f"index of {name}": cost.disk for name, cost in indexes.items()}
    busy = {
        "daemon": message.daemon + places.daemon,
        "PostgreSQL": message.postgres + places.postgres,
        "nats-server": message.nats,
    }
    return Plan(
        load=load,
        decisions=decisions,
        disk_bytes={name: size * decisions * ROOM for name, size in disk.items() if size},
        memory_bytes=(message.hot + places.hot) * decisions,
        log_bytes_per_second=(message.log + places.log) * load.rate,
        stream_bytes_per_second=message.stream * load.rate,
        outage_seconds=STREAM_BYTES / (message.stream * load.rate),
        postgres_bytes_per_second=(load.size + 4 * load.dimensions) * load.rate,
        cores={name: micros * load.rate / 1e6 / UTILIZATION for name, micros in busy.items()},
        daemons=max(1, ceil(message.daemon * load.rate / 1e6 / UTILIZATION)),
        limits=tuple(sorted(_limits(message, indexes), key=lambda limit: limit.rate)),
    )


def _limits(message: Cost, indexes: dict[str, Cost]) -> list[Limit]:
    limits = [
        Limit(
            UTILIZATION * 1e6 / message.daemon,
            "one daemon, of which Python uses one core",
            "start another on the same durable consumer, without any setting",
        ),
        Limit(
            UTILIZATION * 1e6 / message.postgres,
            "one core of PostgreSQL for the ingest",
            "give it more cores; then Citus",
        ),
    ]
    for name, cost in indexes.items():
        if cost.disk:
            limits.append(
                Limit(
                    MAX_SHARE * 1e6 / (cost.daemon + cost.postgres),
                    f"the index of {name}, which one daemon keeps in a quarter of its time",
                    "nothing is lost; answers say what waits, and it catches up when fewer come",
                )
            )
    return limits


def _at(measured: dict[int, Cost], size: float) -> Cost:
    """The cost at a size: on the line through its two neighbours, or through the last two."""
    for (low, small), (high, large) in pairwise(measured.items()):
        if size <= high or high == max(measured):
            part = max(0.0, (size - low) / (high - low))
            return small * (1 - part) + large * part
    raise AssertionError(measured)


def _numbers(cost: Cost) -> tuple[float, ...]:
    return msgspec.structs.astuple(cost)
