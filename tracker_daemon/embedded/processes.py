"""Server processes and their children: who they are, and how they are ended."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_daemon.signals import STOPS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_STOP_SECONDS = 15.0
_KILL_SECONDS = 10.0


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Hold `STOPS` back for the length of a block: a process half made could not be ended."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.signal(number, lambda which, _: held.append(which)) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for caught in held:
            signal.raise_signal(caught)


def family(pid: int) -> list[int]:
    """Return `pid` and the process ids of all that descend from it, parents first."""
    children: dict[int, list[int]] = defaultdict(list)
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
            children[int(_after_name(file)[1])].append(int(file.parent.name))
    family = [pid]
    for member in family:
        family += children[member]
    return family


def shut_down(pid: int) -> None:
    """Ask the server to end now (both take SIGINT for that), and kill it when it does not within 15 s."""
    _signal(family(pid), signal.SIGCONT)  # a frozen one could not hear the next
    if not _signal([pid], signal.SIGINT, within=_STOP_SECONDS):
        kill(pid)


def kill(pid: int) -> None:
    """Kill the server and all that descends from it; frozen first, they make no more of them."""
    frozen: set[int] = set()
    while fresh := set(family(pid)) - frozen:
        _signal(fresh, signal.SIGSTOP)
        for member in fresh:
            _wait_until_frozen(member)
        frozen |= fresh
    _signal(frozen, signal.SIGKILL, within=_KILL_SECONDS)


def _wait_until_frozen(pid: int) -> None:
    # A signal is heard a moment after it was sent, and a process can have a child in that moment.
    deadline = time.monotonic() + _KILL_SECONDS
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # ended meanwhile
        while _after_name(Path(f"/proc/{pid}/stat"))[0] not in "TtZX" and time.monotonic() < deadline:
            time.sleep(0.001)


def _after_name(stat: Path) -> list[str]:
    """What the kernel says of a process after its name, which may hold anything: state and parent first."""
    return stat.read_text(errors="replace").rpartition(")")[2].split()


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
