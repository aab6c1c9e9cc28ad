"""The benchmark's machinery against real servers, in small: what it counts, never how fast it was."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest

from tests.bench import contestants, libraries, report, rows
from tests.bench.bench import Bench
from tests.bench.cases import drain
from tests.bench.contestants import Daemons, RawCopy, play
from tests.bench.libraries import Libraries
from tests.bench.plot import curve
from tests.bench.rows import DEFAULT, EMBEDDED
from tests.bench.stage import DECISIONS, STREAM, Stage
from tests.bench.tables import SEED, SHIPPED
from tests.bench.yardstick import drained

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

ROWS = 300


@pytest.fixture
async def stage(data_dir: Path) -> AsyncIterator[Stage]:
    """Yield servers of the test's own."""
    async with Stage(data_dir).running() as stage:
        yield stage


async def test_a_drain_is_measured_and_every_row_counted(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Two rounds of daemon and raw COPY end in a record a run, a line for each, and a file that keeps all."""
    copy = RawCopy("raw COPY (shipped)", SHIPPED)
    monkeypatch.setattr(drain, "contestants", lambda _: [Daemons(), copy])
    bench = Bench(rounds=2, rows=ROWS, kind=DEFAULT.name)
    result = await drain.run(bench)
    assert [(r["contestant"], r["round"], r["messages"]) for r in result.records] == [
        (name, number, ROWS) for number in (1, 2) for name in ("daemon", "raw COPY (shipped)")
    ]
    assert all(r["seconds"] > 0 and r["cpu"].keys() == {"client", "postgres", "nats"} for r in result.records)
    assert [line.measure.split(": ")[1] for line in result.lines][:2] == ["daemon", "raw COPY (shipped)"]
    assert result.lines[1].goal is not None
    report.write(tmp_path / "new" / "bench.json", bench, {"drain": result})
    written = json.loads((tmp_path / "new" / "bench.json").read_text())
    assert written["cases"]["drain"]["runs"] == result.records
    assert written["environment"]["postgresql fsync"] == "on"
    assert report.table("drain", result.lines).row_count == len(result.lines)
    assert [size for size, _ in curve(result.records, "bytes")] == [result.records[0]["bytes"]]


async def test_raw_copy_on_two_connections_copies_each_row_once(stage: Stage) -> None:
    messages = list(rows.payloads(DEFAULT, 2_500))
    copied = await play(stage, RawCopy("two", SEED, 2), messages)
    assert copied.messages == 2_500
    assert await stage.stored(SEED.name) == 2_500


async def test_the_libraries_alone_store_and_acknowledge_every_message(stage: Stage) -> None:
    messages = list(rows.payloads(DEFAULT, 2_500))
    assert (await play(stage, Libraries(), messages)).messages == 2_500
    info = await stage.client.jetstream().consumer_info(STREAM, libraries.DURABLE)
    assert (info.num_pending, info.num_ack_pending) == (0, 0)


async def test_the_seeds_table_has_no_column_that_is_not_filled(stage: Stage) -> None:
    columns = await stage.sql.fetch(
        "SELECT attname FROM pg_attribute WHERE attrelid = $1::regclass AND attnum > 0 ORDER BY attnum",
        SEED.name,
    )
    assert tuple(column["attname"] for column in columns) == SEED.columns


async def test_a_drain_ends_with_the_last_acknowledgement(stage: Stage) -> None:
    """Not with the last delivery, nor with an acknowledgement that leaves a gap before it."""
    await stage.fill(list(rows.payloads(DEFAULT, 10)))
    looks = asyncio.Queue[None]()
    watch = asyncio.create_task(drained(stage, "D", 10, float, lambda: looks.put_nowait(None)))
    consumer = await stage.client.jetstream().pull_subscribe(DECISIONS, durable="D", stream=STREAM)
    messages = await consumer.fetch(10, timeout=10)
    for message in messages[:4] + messages[5:]:
        await message.ack_sync()
    async with asyncio.timeout(10):
        for _ in range(looks.qsize() + 3):
            await looks.get()
    assert not watch.done()
    await messages[4].ack_sync()
    assert (await watch).messages == 10


async def test_raw_copy_writes_what_the_daemon_writes(stage: Stage) -> None:
    """Row by row, the hash apart: raw COPY needs 32 bytes, the daemon the right ones."""
    messages = list(rows.payloads(EMBEDDED, 40))
    columns = ", ".join(name for name in SHIPPED.columns if name != "content_hash")
    query = f"SELECT {columns}, length(content_hash) FROM llm_decisions ORDER BY id"
    await play(stage, Daemons(), messages)
    theirs = await stage.sql.fetch(query)
    await play(stage, RawCopy("one", SHIPPED), messages)
    assert await stage.sql.fetch(query) == theirs


async def test_rows_that_are_missing_are_an_error(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """A contestant that is fast because it writes less does not get into the report."""
    monkeypatch.setattr(contestants, "COPY_ROWS", 100)
    half = RawCopy("half", SEED)
    monkeypatch.setattr(half, "_copy", lambda *_: _nothing())
    with pytest.raises(RuntimeError, match="half stored 0 of 300 rows in seed_decisions"):
        await play(stage, half, list(rows.payloads(DEFAULT, ROWS)))


async def _nothing() -> None:
    """Copy nothing."""


async def test_a_stream_is_filled_in_order(stage: Stage) -> None:
    messages = list(rows.payloads(DEFAULT, 1_234))
    assert await stage.fill(messages) == 1_234
    js = stage.client.jetstream()
    for sequence in (1, 500, 501, 1_234):
        message = await js.get_msg("LLM", sequence)
        assert message.data == messages[sequence - 1]
