"""Real texts, as many as asked for: the demo's prompts, and windows over what a machine with Python has."""

from __future__ import annotations

import random
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from tests.bench.rows import FIRST, SEED
from tracker_daemon.demo.market import load
from tracker_daemon.demo.script import Script

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES: Final = (200, 800)
"""The fewest and the most bytes of a window."""
DEMO_SHARE: Final = 0.1
"""Of the texts, prompts of the demo, as long as it has some."""

_KINDS: Final = frozenset({".py", ".rst", ".md", ".txt"})


def texts(count: int) -> Iterator[str]:
    """Yield texts in mixed order, the same ones on the same machine; of windows some overlap."""
    chance = random.Random(SEED)  # noqa: S311 - the same texts each time; nothing secret
    prompts = _prompts()
    chance.shuffle(prompts)
    source = _source()
    for _ in range(count):
        if prompts and chance.random() < DEMO_SHARE:
            yield prompts.pop()
        else:
            start = chance.randrange(len(source))
            yield source[start : start + chance.randint(*SIZES)].decode(errors="ignore").replace("\0", "")


def _prompts() -> list[str]:
    messages = Script(load(FIRST)).messages()
    return [orjson.loads(m.payload)["prompt"] for m in messages if m.kind == "decision"]


def _source() -> bytes:
    """Code, comments, docstrings, documentation and licences of Python and of the packages beside it."""
    folders = {Path(sysconfig.get_path(name)) for name in ("stdlib", "purelib")}
    files = {file for folder in folders for file in folder.rglob("*") if _is_text(file)}
    return b"\n".join(file.read_bytes() for file in sorted(files))


def _is_text(file: Path) -> bool:
    return (file.suffix in _KINDS or file.name.startswith("LICENSE")) and file.is_file()
