"""The case of questions against a real server, in small: what it asks and keeps, never how fast it was."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.bench.bench import Bench
from tests.bench.cases import queries

if TYPE_CHECKING:
    import pytest

    from tests.bench.cases.queries import Asked
    from tests.bench.stage import Stage

ROWS = 2_000


async def test_questions_are_asked_of_a_record_with_outcomes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cold, then warm; each leaves its times and the plan of its statement as it ran."""
    everything = queries.questions

    async def some(stage: Stage) -> list[Asked]:
        shown = await stage.sql.fetch(
            "SELECT d.outcome, count(*) FROM llm_decisions d JOIN llm_outcomes o ON o.decision_id = d.id "
            "WHERE (d.outcome, d.pnl, d.outcome_at) = (o.outcome, o.pnl, o.observed_at) GROUP BY 1"
        )
        found = dict(shown)
        assert found.keys() == {"SUCCESS", "FAILURE"}
        assert 0.8 * ROWS < sum(found.values()) == await stage.stored("llm_outcomes") < ROWS
        assert await stage.stored("llm_decisions") == ROWS
        asked = {each.measure: each for each in await everything(stage)}
        return [asked["stats of an agent, all time"], asked["one decision"]]

    monkeypatch.setattr(queries, "questions", some)
    monkeypatch.setattr(queries, "WARM", 3)
    result = await queries.run(Bench(rounds=2, scale=ROWS / queries.COUNT))
    assert [line.measure for line in result.lines] == ["stats of an agent, all time", "one decision"]
    assert all(line.goal is not None for line in result.lines)
    assert [(len(r["cold_ms"]), len(r["warm_ms"])) for r in result.records] == [(2, 3), (2, 3)]
    stats, decision = (record["plan"] for record in result.records)
    assert ["llm_outcomes" in str(plan["Query Text"]) for plan in stats + decision] == [False, False, True]
    assert all("Actual Rows" in plan["Plan"] for plan in stats + decision)
