"""The case of sizes against real servers, in small: what it adds up, never how much it was."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.cases import sizes
from tests.bench.rows import EMBEDDED
from tests.bench.stage import DECISIONS, OUTCOMES

SCALE = 0.01


async def test_each_table_message_and_index_is_counted() -> None:
    result = await sizes.run(Bench(scale=SCALE, kind=EMBEDDED.name))
    [record] = result.records
    assert record["messages"] == SCALE * sizes.COUNTS[EMBEDDED.name]
    indexes = {"llm_text_index", "llm_embedding_index"}  # too few for places of situations
    assert record["micros"].keys() == record["log"].keys() == {DECISIONS, OUTCOMES, *indexes}
    assert all(taken["postgres"] > 0 for taken in record["micros"].values())
    assert all(size > 0 for size in record["log"].values())
    # The embedding as decimals, and a little around the message; 4 bytes a number in the record.
    assert record["stream"][DECISIONS] > record["payload"] > 1536 * 8
    assert record["disk"]["llm_decisions: large values"] > 1536 * 4
    assert record["disk"]["llm_embedding_index: llm_embedding_index_direction"] > 1536 * 2
    assert {line.measure.split(": ")[1] for line in result.lines} >= {DECISIONS, "llm_decisions", *indexes}
