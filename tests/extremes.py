"""Few decisions of extremes, by hypothesis: nulls, ties, the smallest and the greatest of each number."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
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
