"""`tracker-daemon export`: what is in the file, in how much memory, and what an end in the middle leaves."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet
import pytest

from tests.acceptance.command import SCRIPT, tracker, until
from tests.factory import decision, deliver, outcome
from tests.record import known
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from pathlib import Path

    import asyncpg

    from tests.record import Row

MUCH_ROWS = 6_000
MUCH_BYTES = MUCH_ROWS * 40_000


@pytest.fixture
def asked(dsn: str) -> dict[str, str]:
    """The settings of a command that asks."""
    return {"TRACKER_POSTGRES_DSN": dsn}


@pytest.fixture
async def much(sql: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection to a record whose prompts have `MUCH_BYTES`, no two of them alike."""
    await sql.execute(
        "INSERT INTO llm_decisions (agent_name, decision_type, symbol, prompt, response, model) "
        "SELECT 'a', 'signal', 'BTC', repeat(md5(n::text), 1250), '', 'm' FROM generate_series(1, $1) n",
        MUCH_ROWS,
    )
    return sql


@pytest.fixture
async def rich(record: asyncpg.Connection, dsn: str) -> list[Row]:
    """Fill a record in which no column is always empty, and return its rows, the oldest first."""
    store = Store(dsn)
    await store.write(
        deliver(
            decision(
                id="01a205d1-0000-7000-8000-000000000000",
                session_id="01a205d1-0000-7000-8000-000000000001",
                prompt_embedding=[1, -0.1, 0.25],
                embedding_model="e5",
                experiment="size",
                variant="large",
                propensity="0.1234567891",
                confidence="0.8",
                context={"rsi": 62.1, "n": 2**70},
                temperature=0.2,
                prompt="Zeile\n\u00fc\x1b",
                timestamp="2027-01-01T00:00:00.123456Z",
            ),
            outcome(
                "01a205d1-0000-7000-8000-000000000000", pnl="999999999999.99999999", note="n", extra_field=1
            ),
        )
    )
    await store.close()
    return sorted(await known(record), key=lambda row: (row["created_at"], row["id"]))


def plain(row: Row) -> Row:
    """A row as JSON has it."""
    texts = {
        name: value if isinstance(value, int | str) or value is None else str(value)
        for name, value in row.items()
        if name not in {"content_hash", "outcome_sequence"}
    }
    for name in ("outcome_at", "created_at", "ingested_at"):
        texts[name] = row[name] and row[name].isoformat().replace("+00:00", "Z")
    for name in ("context", "extra", "prompt_embedding"):
        texts[name] = row[name] and json.loads(row[name])
    return texts


def listed(folder: Path) -> list[Path]:
    """What is in a folder."""
    return list(folder.iterdir())


async def test_json_lines(asked: dict[str, str], rich: list[Row], tmp_path: Path) -> None:
    """Every column of every decision, decimals to their last digit, on the standard output and in a file."""
    ended = await tracker("export", settings=asked)
    assert (ended.code, ended.err) == (0, "")
    lines = ended.out.splitlines()
    assert [json.loads(line) for line in lines] == [plain(row) for row in rich]
    file = tmp_path / "record.jsonl"
    ended = await tracker("export", "--ledger", file, settings=asked)
    assert (ended.code, ended.out, ended.err) == (0, "", f"{len(rich)} decisions are in {file}\n")
    told = [json.loads(line) for line in file.read_text("utf-8").splitlines()]
    [event] = told[-1].pop("outcomes")
    assert told[-1] == plain(rich[-1])
    assert (event["outcome"], event["pnl"], event["note"]) == ("SUCCESS", "999999999999.99999999", "n")
    assert (event["extra"], event["source"]) == ({"extra_field": 1}, None)
    assert sum(len(row["outcomes"]) for row in told[:-1]) > 100
    assert listed(tmp_path) == [file]


async def test_parquet(asked: dict[str, str], rich: list[Row], tmp_path: Path) -> None:
    """Types that others read without asking, and the same values."""
    file = tmp_path / "record.parquet"
    ended = await tracker("export", "--ledger", file, settings=asked)
    assert (ended.code, ended.out) == (0, "")
    table = pyarrow.parquet.read_table(file)
    for name, type_ in {
        "id": pa.string(),
        "pnl": pa.decimal128(20, 8),
        "confidence": pa.decimal128(5, 4),
        "created_at": pa.timestamp("us", "UTC"),
        "context": pa.string(),
        "tokens_used": pa.int32(),
    }.items():
        assert table.schema.field(name).type == type_
    assert table.schema.field("prompt_embedding").type.value_type == pa.float32()
    rows = table.to_pylist()
    assert len(rows) == len(rich)
    for row, expected in zip(rows, rich, strict=True):
        outcomes = row.pop("outcomes")
        assert [event["pnl"] for event in outcomes[-1:]] == [expected["pnl"]] * len(outcomes[-1:])
        embedding = row.pop("prompt_embedding")
        assert embedding == (expected["prompt_embedding"] and pytest.approx([1, -0.1, 0.25]))
        assert row == {
            name: str(expected[name]) if name in {"id", "session_id"} and expected[name] else expected[name]
            for name in row
        }
    assert rows[-1]["pnl"] == Decimal("999999999999.99999999")
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "export", "--format", "parquet", "-", env=asked, stdout=-1, stderr=-1
    )
    out, err = await process.communicate()
    assert (process.returncode, err) == (0, b"")
    assert pyarrow.parquet.read_table(pa.BufferReader(out)).equals(table.drop(["outcomes"]))


PEAK = """
import atexit, re, sys
from tracker_daemon.cli import main
atexit.register(lambda: print(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]))
main()
"""


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
async def test_memory_does_not_grow_with_what_is_exported(
    format_: str, asked: dict[str, str], much: asyncpg.Connection, tmp_path: Path
) -> None:
    """What all takes beyond what nothing takes is a part of its size."""
    assert much

    async def peak(*arguments: str | Path) -> int:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", PEAK, "export", *arguments, env=asked, stdout=-1
        )
        out, _ = await process.communicate()
        assert process.returncode == 0
        return int(out) * 1024

    file = tmp_path / f"all.{format_}"
    nothing = await peak(tmp_path / f"nothing.{format_}", "--agent", "nobody")
    grown = await peak(file) - nothing
    assert grown < MUCH_BYTES / 2
    if format_ == "jsonl":
        assert file.stat().st_size > MUCH_BYTES


@pytest.mark.parametrize("format_", ["jsonl", "parquet"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
async def test_an_end_in_the_middle_leaves_no_file(
    format_: str, number: signal.Signals, asked: dict[str, str], much: asyncpg.Connection, tmp_path: Path
) -> None:
    file = tmp_path / f"all.{format_}"
    process = await asyncio.create_subprocess_exec(SCRIPT, "export", file, env=asked, stdout=-1, stderr=-1)

    async def begun() -> bool:
        return any(part.stat().st_size for part in listed(tmp_path))

    await until("it writes", begun)
    process.send_signal(number)
    out, err = await process.communicate()
    assert not file.exists()
    assert out == b""
    if number != signal.SIGKILL:
        assert (process.returncode, err) == (1, b"stopped: the export is not complete\n")
        assert listed(tmp_path) == []
    assert await much.fetchval("SELECT count(*) FROM llm_decisions") == MUCH_ROWS


async def test_whoever_stops_reading_is_no_defect(asked: dict[str, str], much: asyncpg.Connection) -> None:
    assert much
    process = await asyncio.create_subprocess_exec(SCRIPT, "export", env=asked, stdout=-1, stderr=-1)
    assert process.stdout
    assert process.stderr
    assert await process.stdout.read(1) == b"{"
    process.stdout._transport.close()  # type: ignore[attr-defined]
    assert await process.stderr.read() == b""
    assert await process.wait() == 141


async def test_a_full_disk_is_a_sentence(asked: dict[str, str], much: asyncpg.Connection) -> None:
    assert much
    with open("/dev/full", "wb") as full:  # noqa: ASYNC230, PTH123 - a device
        process = await asyncio.create_subprocess_exec(SCRIPT, "export", env=asked, stdout=full, stderr=-1)
    _, err = await process.communicate()
    assert err == b"tracker-daemon: the standard output cannot be written: No space left on device\n"
    assert process.returncode == 1


async def test_a_file_that_is_there_is_replaced_only_by_force(
    asked: dict[str, str], rich: list[Row], tmp_path: Path
) -> None:
    file = tmp_path / "record.jsonl"
    file.write_text("mine")
    ended = await tracker("export", file, settings=asked)
    assert (ended.code, file.read_text()) == (1, "mine")
    assert ended.err == (
        f"tracker-daemon: {file} is there already: name another, or replace it with --force\n"
    )
    ended = await tracker("export", file, "--force", settings=asked)
    assert ended.code == 0
    assert len(file.read_bytes().splitlines()) == len(rich)


@pytest.mark.parametrize(
    ("file", "complaint"),
    [
        (".", "is no regular file: name another"),
        ("/dev/null", "is no regular file"),
        ("n" * 300, "cannot be written: File name too long"),
        ("nowhere/record.jsonl", "cannot be written: No such file or directory"),
    ],
)
async def test_a_place_where_no_file_can_be(
    file: str, complaint: str, asked: dict[str, str], tmp_path: Path
) -> None:
    ended = await tracker("export", tmp_path / file, "--force", settings=asked)
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(f"tracker-daemon: {tmp_path / file}")
    assert complaint in ended.err
    assert len(ended.err.splitlines()) == 1


async def test_of_an_unknown_agent_there_is_nothing(asked: dict[str, str], rich: list[Row]) -> None:
    assert rich
    ended = await tracker("export", "--agent", "nobody", settings=asked)
    assert (ended.code, ended.out, ended.err) == (0, "", "")


async def test_no_database_leaves_no_file(taken_port: int, tmp_path: Path) -> None:
    asked = {"TRACKER_POSTGRES_DSN": f"postgresql://127.0.0.1:{taken_port}/tracker"}
    ended = await tracker("export", tmp_path / "record.jsonl", settings=asked)
    assert (ended.code, listed(tmp_path)) == (1, [])
    assert ended.err.startswith("tracker-daemon: PostgreSQL")


async def test_without_pyarrow_its_extra_is_named(asked: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "pyarrow.py").write_text("raise ImportError")
    file = tmp_path / "record.parquet"
    ended = await tracker("export", file, settings={**asked, "PYTHONPATH": str(tmp_path)})
    assert (ended.code, ended.out) == (1, "")
    assert ended.err.startswith(
        "tracker-daemon: Parquet needs pyarrow: pip install 'tracker-daemon[parquet]'"
    )
    assert not file.exists()
