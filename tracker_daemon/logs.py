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
from structlog.dev import ConsoleRenderer, RichTracebackFormatter, plain_traceback
from structlog.stdlib import ProcessorFormatter

if TYPE_CHECKING:
    from structlog.typing import EventDict, Processor, WrappedLogger

    from tracker_daemon.redaction import Redactor


class _LogSettings(Protocol):
    @property
    def format(self) -> str: ...
    @property
    def level(self) -> str: ...


def configure(settings: _LogSettings, redactor: Redactor | None = None) -> None:
    """Send structlog's and the standard library's lines to stderr, in one form; call once, at start.

    A `redactor` goes over everything that they say, tracebacks too.
    """
    terminal = sys.stderr.isatty()
    console = settings.format == "console" or (settings.format == "auto" and terminal)
    chain: list[Processor] = [
        structlog.stdlib.add_logger_name,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    # Tracebacks are text before they are searched, on a console too: in what Rich draws nothing is found.
    redact: list[Processor] = []
    if redactor is not None:
        redact = [structlog.processors.format_exc_info, _Redaction(redactor)]
    render: list[Processor] = [structlog.processors.format_exc_info, _json]
    if console:
        render = _console(colors=terminal, rich=redactor is None)
    structlog.configure(
        processors=[*chain, *redact, *render],
        wrapper_class=structlog.make_filtering_bound_logger(settings.level),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    formatted = [ProcessorFormatter.remove_processors_meta, *redact, *render, _text]
    handler.setFormatter(ProcessorFormatter(foreign_pre_chain=chain, processors=formatted))
    logging.basicConfig(handlers=[handler], level=settings.level.upper(), force=True)
    logging.captureWarnings(capture=True)


class _Redaction:
    """Redacts the strings of a line, however deep, but not when, how bad and from whom it is."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor

    def __call__(self, _: WrappedLogger, __: str, event: EventDict) -> EventDict:
        return {
            key: value if key in {"timestamp", "level", "logger"} else self._value(value)
            for key, value in event.items()
        }

    def _value(self, value: Any, levels: int = 10) -> Any:
        match value:
            case None | bool() | int() | float():
                return value
            case str():
                return self._redactor.redact_text(value)
            case dict() if levels:
                return {
                    self._value(key, levels - 1): self._value(item, levels - 1) for key, item in value.items()
                }
            case list() | tuple() if levels:
                return [self._value(item, levels - 1) for item in value]
            case _:  # what it is may not change, so only what would show is a reason to write it as text
                shown = repr(value)
                redacted = self._redactor.redact_text(shown)
                return value if redacted == shown else redacted


def _console(*, colors: bool, rich: bool) -> list[Processor]:
    traceback = plain_traceback
    if rich:
        traceback = RichTracebackFormatter(
            color_system="auto" if colors else None, show_locals=False, max_frames=6, extra_lines=0
        )
    return [ConsoleRenderer(colors=colors, exception_formatter=traceback), _encoded]


def _encoded(_: WrappedLogger, __: str, line: Any) -> bytes:
    return str(line).encode(errors="backslashreplace")


def _text(_: WrappedLogger, __: str, line: Any) -> str:
    return bytes(line).decode()


def _json(_: WrappedLogger, __: str, event: EventDict) -> bytes:
    # Whatever is neither text nor JSON shows as its repr: that is what was searched for secrets.
    options = orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
    try:
        return orjson.dumps(event, default=repr, option=options)
    except TypeError:  # a lone surrogate, a huge integer or a cycle: the line matters more than its types
        shown = {key: value if isinstance(value, str) else repr(value) for key, value in event.items()}
        return orjson.dumps({key: _encoded(_, __, text).decode() for key, text in shown.items()})
