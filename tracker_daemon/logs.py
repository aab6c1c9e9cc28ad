"""Log lines on stderr: a console on a terminal, JSON otherwise, the libraries' lines among them.

A module takes its logger once, `log = structlog.get_logger(__name__)`, and says what happened in the event
and to what in keywords: `log.warning("postgres is away", attempt=3)`; inside `except`, `log.exception(…)`
adds the traceback. Tracebacks never show local variables: locals hold prompts and secrets.
"""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any, Protocol

import orjson
import structlog
from structlog.dev import ConsoleRenderer, RichTracebackFormatter
from structlog.stdlib import ProcessorFormatter

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger


class _LogSettings(Protocol):
    @property
    def format(self) -> str: ...
    @property
    def level(self) -> str: ...


def configure(settings: _LogSettings) -> None:
    """Send structlog's and the standard library's lines to stderr, in one form; call once, at start."""
    terminal = sys.stderr.isatty()
    console = settings.format == "console" or (settings.format == "auto" and terminal)
    chain: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    render = _console(colors=terminal) if console else [structlog.processors.format_exc_info, _json]
    structlog.configure(
        processors=[*chain, *render],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    formatted = [ProcessorFormatter.remove_processors_meta, *render, _text]
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=chain, processors=formatted))
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.captureWarnings(capture=True)


def _console(*, colors: bool) -> list[Processor]:
    traceback = RichTracebackFormatter(
        color_system="auto" if colors else None, show_locals=False, max_frames=6, extra_lines=0
    )
    return [ConsoleRenderer(colors=colors, exception_formatter=traceback), _encoded]


def _encoded(_: WrappedLogger, __: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")


def _text(_: WrappedLogger, __: str, line: Any) -> str:
    return bytes(line).decode()


def _json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    try:
        return orjson.dumps(event, default=repr, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:  # a lone surrogate, a huge integer or a cycle: the line matters more than its types
        return orjson.dumps({key: _encoded(_, __, value).decode() for key, value in event.items()})
