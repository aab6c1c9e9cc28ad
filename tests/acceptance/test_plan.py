"""`tracker-daemon plan`: what it says is what the document shows, and adds up."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from tests.acceptance.command import tracker
from tracker_daemon.capacity import Load, Plan, plan

DOCUMENT = Path(__file__).parents[2] / "deploy" / "scaling.md"
EXAMPLE = re.compile(r"^```\n\$ tracker-daemon (plan [^\n]+)\n(.+?)^```$", re.MULTILINE | re.DOTALL)


async def test_the_examples_of_the_document_are_what_it_prints() -> None:
    examples = EXAMPLE.findall(DOCUMENT.read_text("utf-8"))
    assert len(examples) == 2
    for command, shown in examples:
        told = await tracker(*command.split(), settings={"COLUMNS": "110"})
        assert (told.code, told.err) == (0, "")
        assert [line.rstrip() for line in told.out.splitlines()] == shown.splitlines()


async def test_as_json_it_has_every_number() -> None:
    wanted = ("--rate", "7.5", "--retention", "2w", "--size", "900", "--outcomes", "0.5")
    told = await tracker("plan", *wanted, "--embeddings", "--dimensions", "256", "--json", settings={})
    assert (told.code, told.err) == (0, "")
    load = Load(rate=7.5, kept=timedelta(weeks=2), size=900, outcomes=0.5, dimensions=256)
    assert msgspec.json.decode(told.out, type=Plan) == plan(load)


@pytest.mark.parametrize(
    ("wrong", "code", "says"),
    [
        (("--rate", "0", "--retention", "90d"), 1, "decisions a second must be more than 0"),
        (("--rate", "5", "--retention", "2026-01-01"), 2, "such as 90d"),
        (("--rate", "5"), 2, "--retention"),
    ],
)
async def test_what_cannot_be_planned_is_a_sentence(wrong: tuple[str, ...], code: int, says: str) -> None:
    told = await tracker("plan", *wrong, settings={"COLUMNS": "300"})
    assert (told.code, told.out) == (code, "")
    assert says in told.err
    assert "Traceback" not in told.err
