"""Data folders: made private, held by one run, their troubles said in a sentence."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterator


def default_data_dir() -> Path:
    """Return the folder that embedded servers use unless told otherwise."""
    if os.geteuid() == 0:
        return Path("/var/lib/tracker-daemon")
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "tracker-daemon"


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Hold `folder` against other runs; the kernel lets go of it when this process ends in whatever way."""
    make_folder(folder)
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise StartupError(
                f"data folder {folder} is in use by process {lock.read().strip()}: "
                "stop that, or choose another folder with --data-dir"
            ) from None
        lock.truncate(0)
        print(os.getpid(), file=lock, flush=True)
        yield


@contextlib.contextmanager
def folder_errors(folder: Path) -> Iterator[None]:
    """Say what the operating system refused, and where."""
    try:
        yield
    except OSError as error:
        raise StartupError(
            f"no server can run in data folder {folder}: {error}; choose another with --data-dir"
        ) from error


def make_folder(folder: Path) -> None:
    """Make `folder` and its missing parents private; root's leave PostgreSQL's user a way through."""
    for missing in [path for path in (*reversed(folder.parents), folder) if not path.exists()]:
        missing.mkdir()
        missing.chmod(0o711 if os.geteuid() == 0 else 0o700)


def write_private(file: Path, text: str) -> None:
    """Write a file that only the caller can read."""
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(text)
