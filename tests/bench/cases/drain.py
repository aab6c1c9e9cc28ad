"""A full stream: the daemon, COPY with nothing around it, its libraries alone, mq-bridge, round by round."""

from __future__ import annotations

from collections import defaultdict
from statistics import mean
from typing import TYPE_CHECKING, Final

from msgspec import Struct

from tests.bench import rows
from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.bridge import BULK_COPY, IDEMPOTENT, Bridge, installed
from tests.bench.contestants import Contestant, Daemons, RawCopy, play
from tests.bench.figures import ratios, spread
from tests.bench.libraries import Libraries
from tests.bench.rows import DEFAULT, EMBEDDED, KINDS, LARGE, SMALL, Kind
from tests.bench.tables import SEED, SHIPPED

if TYPE_CHECKING:
    from tests.bench.stage import Stage
    from tests.bench.yardstick import Drained

# Of the rows that a round of the default kind has: a round of each kind lasts 2 to 5 s.
SHARES: Final = {DEFAULT.name: 1.0, SMALL.name: 1.0, LARGE.name: 0.1, EMBEDDED.name: 0.15}
GOALS: Final = {
    (DEFAULT.name, "raw COPY (seed)"): Goal(0.8, 1.0),
    (DEFAULT.name, "raw COPY (shipped)"): Goal(0.85, 1.0),
    (DEFAULT.name, "mq-bridge bulk_copy"): Goal(1.5, 2.0),
    (DEFAULT.name, "mq-bridge idempotent"): Goal(2.5, 4.0),
    (EMBEDDED.name, "raw COPY (shipped)"): Goal(0.6, 0.9),
}


def contestants(kind: Kind) -> list[Contestant]:
    """Who drains rows of a kind."""
    one: list[Contestant] = [
        Daemons(),
        RawCopy("raw COPY (seed)", SEED),
        RawCopy("raw COPY (shipped)", SHIPPED),
        Libraries(),
    ]
    if kind != DEFAULT:
        return one
    return [
        *one,
        RawCopy("raw COPY (seed), two", SEED, 2),
        RawCopy("raw COPY (shipped), two", SHIPPED, 2),
        *bridges(),
    ]


def bridges() -> list[Contestant]:
    """Both ways of mq-bridge, where it is installed."""
    if not installed():
        return []
    return [
        Bridge("mq-bridge bulk_copy", BULK_COPY, 8_192),
        Bridge("mq-bridge idempotent", IDEMPOTENT, 1_024),
    ]


async def run(bench: Bench) -> Result:
    """Drain every kind of row."""
    result = Result()
    async with bench.stage() as stage:
        for kind in KINDS:
            if bench.kind in kind.name:
                await _drain(bench, stage, kind, result)
    return result


async def _drain(bench: Bench, stage: Stage, kind: Kind, result: Result) -> None:
    count = max(1, round(bench.rows * SHARES[kind.name]))
    messages = list(rows.payloads(kind, count))
    competing = [c for c in contestants(kind) if bench.contestant in c.name]
    if not competing:
        return
    found: dict[str, list[Drained]] = defaultdict(list)
    held: list[Turns] = []
    # Not counted: files of the servers that are extended for the first time cost the first run only.
    await play(stage, competing[0], messages[: count // 2])
    for number in range(1, bench.rounds + 1):
        for contestant in competing:
            drained = await play(stage, contestant, messages)
            found[contestant.name].append(drained)
            turns = Turns.of(contestant)
            held.append(turns)
            result.record(
                drained,
                rows=kind.name,
                bytes=mean(map(len, messages)),
                contestant=contestant.name,
                round=number,
                turns=turns.all,
                long_turns=turns.long,
                long_turns_cpu=turns.long_cpu,
            )
            bench.say(f"drain {kind.name} {number}/{bench.rounds} {contestant.name}: {drained.rate:,.0f}/s")
    result.lines += lines(kind.name, found)
    if told := sum(turns.all for turns in held):
        long, by_the_clock = sum(turns.long_cpu for turns in held), sum(turns.long for turns in held)
        share = f"{long:,} of {told:,} (by the clock, preempted ones too, {by_the_clock:,})"
        result.lines.append(Line(f"{kind.name}: turns of the event loop over 20 ms of CPU time", share))


class Turns(Struct, frozen=True):
    """Turns of a daemon's event loop, and those over 20 ms, by the clock and of CPU; none: not told."""

    all: int = 0
    long: int = 0
    long_cpu: int = 0

    @classmethod
    def of(cls, contestant: Contestant) -> Turns:
        """Read those of the last run."""
        if not isinstance(contestant, Daemons):
            return cls()

        def total(sample: str, **labels: str) -> int:
            return int(sum(scraped(f"event_loop_{sample}", **labels) for scraped in contestant.metrics))

        turns = total("turn_seconds_count")
        short, short_cpu = (total(f"{kind}_seconds_bucket", le="0.02") for kind in ("turn", "turn_cpu"))
        return cls(turns, turns - short, turns - short_cpu)


def lines(kind: str, found: dict[str, list[Drained]]) -> list[Line]:
    """A line for each contestant, with the ratio of the daemon to it."""
    daemon = [drained.rate for drained in found.get("daemon", [])]
    made = []
    for name, runs in found.items():
        rates = [drained.rate for drained in runs]
        ratio = ratios(daemon, rates) if daemon and name != "daemon" else None
        made.append(Line(f"{kind}: {name}", figure(runs), ratio, GOALS.get((kind, name))))
    return made


def figure(runs: list[Drained]) -> str:
    """Rate, and what a message cost each party."""
    micros = {
        party: spread([run.micros(party) for run in runs]).median for party in ("client", "postgres", "nats")
    }
    cpu = " · ".join(f"{party} {value:.1f}" for party, value in micros.items())
    return f"{spread([run.rate for run in runs]).median:,.0f}/s  ({cpu} µs)"
