"""Server processes and their children: who they are, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STOP_SECONDS = 15.0
_KILL_SECONDS = 10.0


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold SIGTERM and SIGINT back for the length of a block: a process half made could not be ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {
        number: signal.signal(number, lambda which, _: held.append(which))
        for number in (signal.SIGTERM, signal.SIGINT)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in held:
            signal.raise_signal(caught)


def family(pid: int) -> list[int]:
    """Return `pid` and the process ids of its children; neither server has grandchildren."""
    family = [pid]
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            _, _, after_name = file.read_text(errors="replace").rpartition(")")
            if int(after_name.split()[1]) == pid:
                family.append(int(file.parent.name))
    return family


def shut_down(pid: int) -> None:
    """Ask the server to end now (both take SIGINT for that), and kill it when it does not within 15 s."""
    _signal(family(pid), signal.SIGCONT)  # a frozen one could not hear the next
    if not _signal([pid], signal.SIGINT, within=_STOP_SECONDS):
        kill(pid)


def kill(pid: int) -> None:
    """Kill the server and its children; frozen first, it makes no more of them."""
    _signal([pid], signal.SIGSTOP)
    _signal(family(pid), signal.SIGKILL, within=_KILL_SECONDS)


def _signal(pids: Iterable[int], number: signal.Signals, within: float = 0.0) -> bool:
    """Signal the processes and wait at most `within` seconds; True when all have ended."""
    deadline = time.monotonic() + within
    with contextlib.ExitStack() as opened:
        handles = []
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):  # ended meanwhile
                handles.append(os.pidfd_open(pid))
                opened.callback(os.close, handles[-1])
                signal.pidfd_send_signal(handles[-1], number)
        return all(select.select([h], [], [], max(0.0, deadline - time.monotonic()))[0] for h in handles)
