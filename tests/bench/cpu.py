"""CPU seconds that processes have used, user and system: what stays true on a machine that others share."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

_TICKS: Final = os.sysconf("SC_CLK_TCK")


def used(pid: int) -> float:
    """CPU seconds of all threads of one process; raises FileNotFoundError when it has ended."""
    return sum(_ticks(pid)[:2]) / _TICKS


def on_cpu(pid: int) -> float:
    """CPU seconds of the first thread of a process, to the nanosecond."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e9


def used_with_children(pids: Iterable[int]) -> float:
    """CPU seconds of a server, the first, and its children, those that have ended included."""
    server, *children = pids
    total = sum(_ticks(server))  # the last two are those of children that it has waited for
    for child in children:
        try:
            total += sum(_ticks(child)[:2])
        except (FileNotFoundError, ProcessLookupError):  # ended meanwhile
            continue
    return total / _TICKS


def peak_rss(pid: int) -> int:
    """Most bytes of memory that a process has had resident."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise ProcessLookupError(f"process {pid} has ended")


def _ticks(pid: int) -> list[int]:
    """User, system, user of ended children, system of ended children."""
    _, _, after_name = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")
    return [int(number) for number in after_name.split()[11:15]]
