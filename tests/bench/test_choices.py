"""The case of choices against a real daemon, in small: what it asks and counts, never how fast it was."""

from __future__ import annotations

from tests.bench.bench import Bench
from tests.bench.cases import choices

ASKED = 20


async def test_each_question_is_answered_and_counted() -> None:
    """At rest, and while a daemon takes what a stream holds."""
    result = await choices.run(Bench(rows=300, scale=ASKED / choices.COUNT))
    expected = [
        f"{name}{beside}" for beside in ("", ", beside a full stream") for name in ("assign", "select")
    ]
    assert [record["question"] for record in result.records] == expected
    assert [(record["asked"], len(record["ms"])) for record in result.records] == [(ASKED, ASKED)] * 4
    assert [line.measure for line in result.lines] == expected
    assert all(line.goal is not None for line in result.lines)
