"""Logs: one JSON object a line, the libraries' lines among them, and no local variable in any traceback."""

from __future__ import annotations

import io
import json
import logging
import os
import sys
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pytest
import structlog

from tracker_daemon import logs
from tracker_daemon.config import LogSettings
from tracker_daemon.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    def read() -> list[dict[str, Any]]:
        captured = capsys.readouterr()
        assert captured.out == ""
        return [json.loads(line) for line in captured.err.splitlines()]

    return read


def fail_with_a_local() -> None:
    secret = "s3cret" + "-local"  # noqa: F841 - what a traceback must not show
    raise ValueError("boom")


def test_a_line_is_json_with_time_level_logger_and_event(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"))
    structlog.get_logger("tracker_daemon.store").info("committed", rows=3)
    (line,) = lines()
    assert line.pop("timestamp").endswith("Z")
    assert line == {"event": "committed", "level": "info", "logger": "tracker_daemon.store", "rows": 3}


def test_the_libraries_lines_have_the_same_form(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"))
    for name in ("nats.aio.client", "asyncpg", "aiohttp.server"):
        logging.getLogger(name).warning("away %d", 3)
    for line in (found := lines()):
        assert line.keys() == {"timestamp", "level", "logger", "event"}
        assert (line["level"], line["event"]) == ("warning", "away 3")
    assert [line["logger"] for line in found] == ["nats.aio.client", "asyncpg", "aiohttp.server"]


def test_warnings_become_lines(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", stacklevel=1)
    (line,) = lines()
    assert line["logger"] == "py.warnings"


def test_lines_below_the_level_are_left_out(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json", level="warning"))
    for logger in (structlog.get_logger("ours"), logging.getLogger("theirs")):
        logger.info("hidden")
        logger.warning("shown")
    assert [(line["logger"], line["event"]) for line in lines()] == [("ours", "shown"), ("theirs", "shown")]


def test_an_exception_is_one_string_without_locals(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"))
    try:
        fail_with_a_local()
    except ValueError:
        structlog.get_logger("ours").exception("failed")
        logging.getLogger("theirs").exception("failed")
    for line in lines():
        assert line["exception"].startswith("Traceback (most recent call last)")
        assert line["exception"].endswith("ValueError: boom")
        assert "s3cret-local" not in line["exception"]


def test_values_that_json_cannot_hold_never_lose_the_line(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"))
    log = structlog.get_logger("ours")
    cycle: list[Any] = []
    cycle.append(cycle)
    log.info("one", text="\udcff", number=1 << 70, cycle=cycle)
    log.info("two", keys={1: 2}, thing=ValueError("x"))
    logging.getLogger("theirs").info("three \udcff")
    one, two, three = lines()
    assert (one["event"], one["text"], one["number"]) == ("one", r"\udcff", str(1 << 70))
    assert (two["keys"], two["thing"]) == ({"1": 2}, "ValueError('x')")
    assert three["event"] == r"three \udcff"


def test_the_console_shows_tracebacks_without_locals(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogSettings(format="console"))
    try:
        fail_with_a_local()
    except ValueError:
        structlog.get_logger("ours").exception("failed", text="\udcff")
        logging.getLogger("theirs").exception("failed")
    shown = capsys.readouterr().err
    assert shown.count("ValueError: boom") == 2
    assert "s3cret-local" not in shown
    assert "\x1b[" not in shown


SECRET = "AKIA0123456789ABCDEF"


def fail_with_a_secret() -> None:
    raise ValueError(f"no such key: {SECRET}")


def test_a_redactor_goes_over_every_string_of_a_line_but_not_over_when_and_who(
    lines: Callable[[], list[dict[str, Any]]],
) -> None:
    logs.configure(LogSettings(format="json"), Redactor(["keys"], [r"20\d\d", "info", "ours"]))
    log = structlog.get_logger("ours")
    log.info(SECRET, deep={SECRET: [(f"b {SECRET}",), 1.5, None]}, error=ValueError(SECRET))
    logging.getLogger("ours").info("%s of 2026", SECRET)
    one, two = lines()
    assert one.pop("timestamp").startswith("20")
    assert one == {
        "event": "[redacted:keys]",
        "level": "info",
        "logger": "ours",
        "deep": {"[redacted:keys]": [["b [redacted:keys]"], 1.5, None]},
        "error": "ValueError('[redacted:keys]')",
    }
    assert (two["event"], two["logger"]) == ("[redacted:keys] of [redacted:pattern]", "ours")


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_redactor_goes_over_tracebacks(
    capsys: pytest.CaptureFixture[str], form: Literal["json", "console"]
) -> None:
    logs.configure(LogSettings(format=form), Redactor(["keys"]))
    try:
        fail_with_a_secret()
    except ValueError as error:
        structlog.get_logger("ours").exception(f"failed: {error}", error=error)
        logging.getLogger("theirs").exception("failed")
    shown = capsys.readouterr().err
    assert SECRET not in shown
    assert shown.count("ValueError: no such key: [redacted:keys]") == 2


def test_a_redactor_loses_no_line_over_a_value_without_end(lines: Callable[[], list[dict[str, Any]]]) -> None:
    logs.configure(LogSettings(format="json"), Redactor(["keys"]))
    cycle: list[Any] = [SECRET]
    cycle.append(cycle)
    structlog.get_logger("ours").info("one", cycle=cycle, thing=Path("x"))
    (line,) = lines()
    assert "[redacted:keys]" in str(line["cycle"])
    assert SECRET not in str(line)
    assert line["thing"] == "PosixPath('x')"


@dataclass
class Holder:
    """Its repr tells less than it holds."""

    secret: str = field(default=SECRET, repr=False)

    def __str__(self) -> str:
        return self.secret


@pytest.mark.parametrize("number", [1, 1 << 70])
def test_a_value_shows_what_was_searched_and_no_more(
    lines: Callable[[], list[dict[str, Any]]], number: int
) -> None:
    """Also where the line takes the way of what JSON cannot hold."""
    logs.configure(LogSettings(format="json"), Redactor(["keys"]))
    structlog.get_logger("ours").info("one", holder=Holder(), number=number)
    (line,) = lines()
    assert line["holder"] == "Holder()"


def test_auto_is_console_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    master, slave = os.openpty()
    with os.fdopen(master, "rb", buffering=0) as screen, os.fdopen(slave, "w") as terminal:
        monkeypatch.setattr(sys, "stderr", terminal)
        logs.configure(LogSettings())
        structlog.get_logger("ours").info("hello")
        assert b"\x1b[" in screen.read(1000)
    pipe = io.TextIOWrapper(io.BytesIO())
    monkeypatch.setattr(sys, "stderr", pipe)
    logs.configure(LogSettings())
    structlog.get_logger("ours").info("hello")
    assert json.loads(pipe.buffer.getvalue())["event"] == "hello"
