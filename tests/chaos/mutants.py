"""Daemons with one promise broken on purpose: a fault kit that does not see them sees nothing."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from msgspec import Struct

import tracker_daemon

if TYPE_CHECKING:
    from pathlib import Path


class Mutant(Struct, frozen=True):
    """One change to one module: the text `before` becomes `after`."""

    name: str
    module: str
    before: str
    after: str

    def make(self, folder: Path) -> Path:
        """Copy the package into `folder`, changed, and return the folder, fit for PYTHONPATH."""
        package = folder / "tracker_daemon"
        shutil.copytree(tracker_daemon.__path__[0], package, ignore=shutil.ignore_patterns("__pycache__"))
        module = package / self.module
        text = module.read_text()
        assert text.count(self.before) == 1, f"{self.module} no longer holds what {self.name} changes"
        module.write_text(text.replace(self.before, self.after))
        return folder


ACK_BEFORE_COMMIT = Mutant(
    "acknowledges before the commit",
    "batch.py",
    "                results = await write(batch)\n",
    '                await self._settle(batch, ["stored"] * len(batch))\n'
    "                results = await write(batch)\n",
)
NOT_IDEMPOTENT = Mutant(
    "takes each delivery for a new message",
    "messages/records.py",
    "if self.stream is None else sha256(position).digest()[:8]",
    "",
)
WITHOUT_ISOLATION = Mutant(
    "lets one bad row take its batch down",
    "store/isolation.py",
    "if len(part) == 1:\n                    verdicts.append(poison(part[0], error))\n",
    "if True:\n"
    "                    from tracker_daemon.errors import InvalidPayload\n"
    '                    why = InvalidPayload("rejected_by_database", None, str(error))\n'
    "                    verdicts += [why] * len(part)\n",
)
