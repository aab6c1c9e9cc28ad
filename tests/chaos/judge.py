"""The judge: what the stream confirmed against what the tables hold."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, get_args

from msgspec import Struct

from tracker_daemon.messages import Result

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    import asyncpg

    from tests.acceptance.command import Metrics
    from tests.chaos.agents import Confirmed, Event

TABLES = {
    "decision": ("llm_decisions", "prompt"),
    "outcome": ("llm_outcomes", "note"),
    "dead_letter": ("llm_dead_letters", "payload"),
}


class Verdict(Struct):
    """What the judge found: a sentence each."""

    messages: int
    lost: list[str]
    twice: list[str]
    wrong: list[str]

    @property
    def clean(self) -> bool:
        """Whether there is nothing to say."""
        return not (self.lost or self.twice or self.wrong)


async def judge(confirmed: Sequence[Confirmed], sql: asyncpg.Connection) -> Verdict:
    """Compare every confirmed message with the rows: each there, once, under its own name, and projected.

    What has expired is in none of them.
    """
    verdict = Verdict(len(confirmed), [], [], [])
    for fate, (table, column) in TABLES.items():
        expected = {item.draft.mark: item for item in confirmed if item.draft.fate == fate}
        found = Counter(mark for (mark,) in await sql.fetch(f"SELECT {column} FROM {table}"))
        verdict.lost += [_place(expected[mark]) for mark in expected.keys() - found.keys()]
        verdict.twice += [f"{mark!r} has {n} rows in {table}" for mark, n in found.items() if n > 1]
        verdict.wrong += [
            f"{table} holds {mark!r:.200}, which is no {fate}" for mark in found.keys() - expected.keys()
        ]
    verdict.wrong += await _mistaken_outcomes(confirmed, sql)
    verdict.wrong += await _mistaken_decisions(confirmed, sql)
    return verdict


def sums(metrics: Metrics, subjects: Iterable[str]) -> list[str]:
    """What does not add up in the counters of a daemon that holds nothing."""
    wrong = []
    for subject in subjects:
        received = metrics("messages_received_total", subject=subject)
        settled = {
            result: metrics("messages_settled_total", subject=subject, result=result)
            for result in get_args(Result)
        }
        if received != sum(settled.values()):
            wrong.append(f"{subject}: {received:.0f} received, but settled were {settled}")
    if held := metrics("buffered_rows"):
        wrong.append(f"{held:.0f} messages are still held")
    return wrong


async def committed(metrics: Metrics, sql: asyncpg.Connection) -> list[str]:
    """Which tables differ from the counters of the one daemon that ever wrote to them."""
    wrong = []
    for table, _ in TABLES.values():
        rows = await sql.fetchval(f"SELECT count(*) FROM {table}")
        if rows != metrics("rows_committed_total", table=table):
            wrong.append(f"{table} holds {rows} rows, not what rows_committed_total says")
    return wrong


def _place(item: Confirmed) -> str:
    return f"{item.draft.fate} {item.draft.mark!r:.200}, sequence {item.sequence}, has no row"


async def _mistaken_outcomes(confirmed: Iterable[Confirmed], sql: asyncpg.Connection) -> list[str]:
    """Rows of the ledger that say something else than the outcome that was published."""
    rows = {row["note"]: row for row in await sql.fetch("SELECT * FROM llm_outcomes")}
    wrong = []
    for item in confirmed:
        event, row = item.draft.event, rows.get(item.draft.mark)
        if event is None or row is None:
            continue
        said = (item.draft.decision_id, event.word, event.pnl, event.observed_at, item.sequence)
        stored = tuple(
            row[name] for name in ("decision_id", "outcome", "pnl", "observed_at", "stream_sequence")
        )
        if said != stored:
            wrong.append(f"the outcome {item.draft.mark!r} says {said}, its row {stored}")
    return wrong


async def _mistaken_decisions(confirmed: Iterable[Confirmed], sql: asyncpg.Connection) -> list[str]:
    """Decisions under another id than published, or that do not show the winner of their outcomes."""
    winners: dict[UUID, tuple[Any, int, Event]] = {}
    published: dict[str | bytes, UUID] = {}
    for item in confirmed:
        id_, event = item.draft.decision_id, item.draft.event
        if id_ is None:
            continue
        if event is None:
            published[item.draft.mark] = id_
        else:
            challenger = (event.observed_at, item.sequence, event)
            winners[id_] = max(winners.get(id_, challenger), challenger, key=lambda entry: entry[:2])
    wrong = []
    for row in await sql.fetch("SELECT id, prompt, outcome, pnl, outcome_at FROM llm_decisions"):
        if row["id"] != published.get(row["prompt"], row["id"]):
            wrong.append(f"{row['prompt']!r} was published with the id {published[row['prompt']]}")
        winner = winners.get(row["id"])
        expected = (winner[2].word, winner[2].pnl, winner[0]) if winner else (None, None, None)
        shown = (row["outcome"], row["pnl"], row["outcome_at"])
        if shown != expected:
            wrong.append(f"the decision {row['id']} shows {shown}, its outcomes make {expected}")
    return wrong
