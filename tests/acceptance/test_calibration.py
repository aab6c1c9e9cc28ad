"""`tracker-daemon calibration`: what is printed, compared with plain Python over the rows."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import orjson
import pytest

from tests.acceptance.command import tracker
from tests.record import grouped, known, mean

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.record import Row


@pytest.fixture
def asked(dsn: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a command that asks, on a terminal's 80 columns."""
    return {"TRACKER_POSTGRES_DSN": dsn, "COLUMNS": "80", "HOME": str(tmp_path)}


def tenths(rows: list[Row]) -> dict[int, list[Row]]:
    """The resolved decisions with a confidence, by tenths of it."""
    told = [r for r in rows if r["outcome"] in {"SUCCESS", "FAILURE"} and r["confidence"] is not None]
    return grouped(told, lambda row: min(int(row["confidence"] * 10), 9))


def rate(rows: list[Row]) -> float:
    return sum(row["outcome"] == "SUCCESS" for row in rows) / len(rows)


async def test_buckets_and_scores(asked: dict[str, str], record: asyncpg.Connection) -> None:
    """As CSV, as JSON, and as a table of 80 columns."""
    rows = [row for row in await known(record) if row["agent_name"] == "risk"]
    expected = sorted(tenths(rows).items())
    question = ("calibration", "--agent", "risk", "--group-by", "agent")
    sheet = list(csv.DictReader(io.StringIO((await tracker(*question, "--csv", settings=asked)).out)))
    for line, (tenth, those) in zip(sheet, expected, strict=True):
        assert (line["agent_name"], float(line["lower"])) == ("risk", pytest.approx(tenth / 10))
        assert int(line["decisions"]) == len(those)
        assert float(line["resolved_success_rate"]) == pytest.approx(rate(those))
        stated = [float(row["confidence"]) for row in those]
        assert float(line["avg_confidence"]) == pytest.approx(mean(stated))
    [group] = orjson.loads((await tracker(*question, "--json", settings=asked)).out)["groups"]
    errors = [
        (float(row["confidence"]) - (row["outcome"] == "SUCCESS")) ** 2
        for _, those in expected
        for row in those
    ]
    assert group["brier_score"] == pytest.approx(mean(errors))
    ended = await tracker(*question, settings=asked)
    assert (ended.code, ended.err) == (0, "")
    assert max(map(len, ended.out.splitlines())) <= 80
    lines = [line.split() for line in ended.out.splitlines()]
    assert [(int(line[3]), line[5]) for line in lines if line[1:2] == ["to"]] == [
        (len(those), f"{rate(those):.1%}") for _, those in expected
    ]
    assert ["brier_score", f"{mean(errors):.4f}"] in [line[:2] for line in lines]
    undecided = sum(row["outcome"] not in {"SUCCESS", "FAILURE"} for row in rows)
    assert f"0 immature, {undecided} undecided" in ended.out


async def test_a_picture(asked: dict[str, str], record: asyncpg.Connection, tmp_path: Path) -> None:
    assert record
    file = tmp_path / "calibration.png"
    ended = await tracker("calibration", "--group-by", "agent", "--plot", file, settings=asked)
    assert ended.code == 0
    assert file.read_bytes().startswith(b"\x89PNG")
    ended = await tracker("calibration", "--plot", tmp_path / "no" / "where.png", settings=asked)
    assert (ended.code, ended.out) == (1, "")
    assert "cannot be drawn" in ended.err
    assert "Traceback" not in ended.err
    (tmp_path / "matplotlib.py").write_text("raise ImportError")
    ended = await tracker("calibration", "--plot", file, settings={**asked, "PYTHONPATH": str(tmp_path)})
    assert ended.code == 1
    assert ended.err.startswith("tracker-daemon: --plot needs matplotlib: pip install 'tracker-daemon[plot]'")


async def test_of_nothing_there_is_nothing_to_tell(asked: dict[str, str], record: asyncpg.Connection) -> None:
    assert record
    ended = await tracker("calibration", "--agent", "nobody", settings=asked)
    assert (ended.code, ended.err) == (0, "")
    assert "Of 0 decisions" in ended.out
    ended = await tracker("calibration", "--buckets", "1", settings=asked)
    assert (ended.code, ended.out) == (1, "")
    assert "buckets must be from 2 to 50" in ended.err
