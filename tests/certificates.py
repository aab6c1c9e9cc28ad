"""A certificate authority of a test's own, and the files of what it vouches for."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import trustme

if TYPE_CHECKING:
    from pathlib import Path


class Authority:
    """A CA; `file` is its certificate."""

    def __init__(self, folder: Path) -> None:
        """Keep files in `folder`, which is made."""
        folder.mkdir()
        self._folder = folder
        self._ca = trustme.CA()
        self.file = folder / "ca.pem"
        self._ca.cert_pem.write_to_path(str(self.file))

    def issue(self, name: str, *, expired: bool = False) -> Path:
        """Write key and certificate of a host, an address or an e-mail address into one file."""
        until = datetime.now(UTC) - timedelta(days=1) if expired else None
        file = self._folder / f"{name}{'-expired' * expired}.pem"
        self._ca.issue_cert(name, not_after=until).private_key_and_cert_chain_pem.write_to_path(str(file))
        return file
