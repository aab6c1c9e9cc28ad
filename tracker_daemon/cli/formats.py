"""The formats of an export: each takes decisions a few at a time, and holds few of them."""

from __future__ import annotations

import importlib
from typing import Any, Final, Protocol
from uuid import UUID

import msgspec

from tracker_daemon.errors import TrackerError

ROW_GROUP_BYTES: Final = 16 << 20
"""Held for a row group of Parquet, before it is compressed."""

_OBJECTS: Final = ("context", "extra")


class Output(Protocol):
    """What takes the bytes: a file, or the standard output."""

    def write(self, data: bytes, /) -> object:
        """Take some more."""


class Format(Protocol):
    """Writes decisions as `export_decisions` yields them."""

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Take some more."""

    def close(self) -> None:
        """Write what is still held; the output stays open."""


class FormatError(TrackerError):
    """The format cannot be written: its package is missing, or a value does not fit."""


class JsonLines:
    """A JSON object a line, decimals as strings, times in RFC 3339."""

    def __init__(self, output: Output, *, ledger: bool) -> None:
        """Write to this output, rows with or without their ledger."""
        self._output = output
        self._ledger = ledger
        self._encoder = msgspec.json.Encoder()

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Take some more."""
        self._output.write(self._encoder.encode_lines([self._line(row) for row in rows]))

    def close(self) -> None:
        """Nothing is held."""

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        line = row | {name: _raw(row[name]) for name in (*_OBJECTS, "prompt_embedding")}
        if self._ledger:
            line["outcomes"] = [event | {"extra": _raw(event["extra"])} for event in row["outcomes"]]
        return line


def _raw(text: str | None) -> msgspec.Raw | None:
    return None if text is None else msgspec.Raw(text.encode())


class Parquet:
    """Decimals as decimal128, times in UTC with microseconds, JSON and UUIDs as strings."""

    def __init__(self, output: Output, *, ledger: bool) -> None:
        """Write to this output, rows with or without their ledger; raise `FormatError` without pyarrow."""
        self._ledger = ledger
        try:
            self._arrow = importlib.import_module("pyarrow")
            parquet = importlib.import_module("pyarrow.parquet")
        except ImportError:
            raise FormatError(
                "Parquet needs pyarrow: pip install 'tracker-daemon[parquet]', or export with --format jsonl"
            ) from None
        self._schema = _schema(self._arrow, ledger=ledger)
        self._writer = parquet.ParquetWriter(output, self._schema, compression="zstd")
        self._held: list[Any] = []

    def write(self, rows: list[dict[str, Any]]) -> None:
        """Take some more; a row group is written once enough is held."""
        lines = [self._line(row) for row in rows]
        try:
            self._held.append(self._arrow.RecordBatch.from_pylist(lines, self._schema))
        except self._arrow.ArrowInvalid as error:
            raise FormatError(f"a decision does not fit Parquet ({error}): use --format jsonl") from error
        if sum(batch.nbytes for batch in self._held) >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> None:
        """Write what is held, and the footer."""
        self._flush()
        self._writer.close()

    def _flush(self) -> None:
        self._writer.write_table(self._arrow.Table.from_batches(self._held, self._schema))
        self._held.clear()

    def _line(self, row: dict[str, Any]) -> dict[str, Any]:
        line = {name: str(value) if isinstance(value, UUID) else value for name, value in row.items()}
        if embedding := row["prompt_embedding"]:
            line["prompt_embedding"] = msgspec.json.decode(embedding, type=list[float])
        if self._ledger:
            line["outcomes"] = [event | {"event_id": str(event["event_id"])} for event in row["outcomes"]]
        return line


def _schema(arrow: Any, *, ledger: bool) -> Any:
    """The columns of `queries.export.COLUMNS`, in the types that the tables have."""
    text, time, integer = arrow.string(), arrow.timestamp("us", "UTC"), arrow.int32()
    pnl = arrow.decimal128(20, 8)
    columns = {
        "id": text,
        "session_id": text,
        "agent_name": text,
        "decision_type": text,
        "symbol": text,
        "prompt": text,
        "response": text,
        "model": text,
        "action": text,
        "outcome": text,
        "pnl": pnl,
        "outcome_at": time,
        "confidence": arrow.decimal128(5, 4),
        "tokens_used": integer,
        "latency_ms": integer,
        "cost_usd": arrow.decimal128(14, 6),
        "context": text,
        "extra": text,
        "experiment": text,
        "variant": text,
        "propensity": arrow.decimal128(11, 10),
        "prompt_embedding": arrow.list_(arrow.float32()),
        "embedding_model": text,
        "created_at": time,
        "ingested_at": time,
    }
    if ledger:
        event = {
            "event_id": text,
            "outcome": text,
            "pnl": pnl,
            "observed_at": time,
            "received_at": time,
            "source": text,
            "note": text,
            "extra": text,
            "stream_sequence": arrow.int64(),
        }
        columns["outcomes"] = arrow.list_(arrow.struct(list(event.items())))
    return arrow.schema(list(columns.items()))
