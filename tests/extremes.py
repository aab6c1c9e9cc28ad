"""Few decisions of extremes, by hypothesis: nulls, ties, the smallest and the greatest of each number."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from io import BytesIO
from typing import TYPE_CHECKING, Any, Final

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from tests.record import BEGIN

if TYPE_CHECKING:
    import asyncpg
    from hypothesis.strategies import SearchStrategy

    from tests.record import Row

EXAMPLES: Final = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""For tests whose examples are written to one database, one after the other."""


def _decimals(places: int, *special: str) -> SearchStrategy[Decimal | None]:
    """None, a few special ones, which so meet their like, or any between the first two of them."""
    bounds = [Decimal(text) for text in special]
    return st.none() | st.sampled_from(bounds) | st.decimals(*bounds[:2], places=places)


_INTEGERS: Final = st.none() | st.sampled_from([0, 1, 2**31 - 1]) | st.integers(0, 2**31 - 1)
_TIMES: Final = st.integers(0, 4).map(lambda hours: BEGIN + timedelta(hours=12 * hours))

ROWS: Final = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.uuids(),
            "agent_name": st.sampled_from("ab"),
            "model": st.sampled_from("xy"),
            "outcome": st.sampled_from([None, "PENDING", "SUCCESS", "SUCCESS", "FAILURE", "FAILURE"]),
            "pnl": _decimals(8, "-999999999999.99999999", "999999999999.99999999", "0", "0.00000001", "-1"),
            "outcome_at": st.none() | _TIMES,
            "created_at": _TIMES,
            "confidence": _decimals(4, "0", "1", "0.3", "0.5", "0.0001", "0.9999"),
            "latency_ms": _INTEGERS,
            "tokens_used": _INTEGERS,
            "cost_usd": _decimals(6, "0", "99999999.999999", "0.000001"),
            "decision_type": st.just("signal"),
            "symbol": st.just("BTC"),
            "prompt": st.just("?"),
            "response": st.just("!"),
        }
    ),
    max_size=12,
    unique_by=lambda row: row["id"],
)
"""All decisions of a table, from none to a dozen."""


async def refill(sql: asyncpg.Connection, rows: list[Row]) -> None:
    """Have the table hold these decisions and no others."""
    await sql.execute("DELETE FROM llm_decisions")
    columns: list[Any] = sorted(rows[0] if rows else {"id"})
    records = [[row[name] for name in columns] for row in rows]
    await sql.copy_records_to_table("llm_decisions", columns=columns, records=records)


HUGE: Final = "1" * 400 + ".5"
"""A number that JSONB takes, and no float64."""
_FOREIGN_TIMES: Final = st.none() | st.sampled_from(
    [
        *("infinity", "-infinity", "294276-12-31 23:59:59.999999Z", "4713-01-01Z BC"),
        *("9999-12-31 23:59:59.999999Z", "0001-01-01Z", "2026-01-01Z", "2026-01-02Z"),
    ]
)
_FOREIGN_JSON: Final = st.none() | st.sampled_from(
    [
        f'{{"rsi": {HUGE}}}',
        f'{{"rsi": -{HUGE}, "trend": "up", "deep": {{"a": {HUGE}}}}}',
        f'{{"rsi": 0.{"0" * 500}1, "trend": 7}}',
        '{"rsi": 62, "trend": "up", "deep": {"a": 1}}',
        '{"a":' * 500 + "1" + "}" * 500,
        *("[1]", '"text"', "1", "null", "{}"),
    ]
)
_FOREIGN_NUMBERS: Final = st.sampled_from([None, "NaN", "0", "-1", "1", "9.9999"])
_FOREIGN_INTEGERS: Final = st.sampled_from([None, "-2147483648", "2147483647"])

FOREIGN_ROWS: Final = st.lists(
    st.fixed_dictionaries(
        {
            "id": st.uuids().map(str),
            "created_at": _FOREIGN_TIMES,
            "outcome_at": _FOREIGN_TIMES,
            "context": _FOREIGN_JSON,
            "extra": _FOREIGN_JSON,
            "outcome": st.sampled_from([None, "PENDING", "SUCCESS", "FAILURE"]),
            "pnl": _FOREIGN_NUMBERS,
            "confidence": _FOREIGN_NUMBERS,
            "cost_usd": _FOREIGN_NUMBERS,
            "latency_ms": _FOREIGN_INTEGERS,
            "tokens_used": _FOREIGN_INTEGERS,
            "prompt": st.sampled_from(["", "momentum up"]),
            "response": st.just(""),
            "prompt_embedding": st.sampled_from([None, "[0,0,0]", "[1,2,3]", "[3e38,3e38,3e38]"]),
            "agent_name": st.sampled_from(["", "a"]),
            "symbol": st.just("BTC"),
            "model": st.just(""),
            "decision_type": st.just(""),
        }
    ),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row["id"],
)
"""What no message can have made, but someone else's table may hold: each value as text that SQL reads."""


async def adopt_rows(sql: asyncpg.Connection, rows: list[dict[str, str | None]]) -> None:
    """Have the table hold these decisions and no others, and the ledger what an adoption enters of them."""
    await sql.execute("DELETE FROM llm_decisions; DELETE FROM llm_outcomes")
    columns = sorted(rows[0])
    lines = ("\t".join(row[name] or "\\N" * (row[name] is None) for name in columns) for row in rows)
    await sql.copy_to_table(
        "llm_decisions", columns=columns, source=BytesIO("\n".join(lines).encode()), format="text"
    )
    await sql.execute(
        "INSERT INTO llm_outcomes "
        "(decision_id, event_id, outcome, pnl, observed_at, received_at, stream_sequence) "
        "SELECT id, id, outcome, pnl, COALESCE(outcome_at, 'epoch'), COALESCE(created_at, 'epoch'), 0 "
        "FROM llm_decisions WHERE outcome IS NOT NULL"
    )
