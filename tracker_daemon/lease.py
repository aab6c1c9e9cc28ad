"""Work that one daemon does for all: a row says who, and expires unless that one comes back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from uuid import uuid4

from tracker_daemon.postgres import translated

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

SECONDS: Final = 15
"""How long a lease lasts without being prolonged."""

# Each is one message, statement and commit: whoever freezes cannot keep the row locked from the others, and
# behind PgBouncer there are no two round trips that could reach two servers. So values stand in the text. And
# the clock is read in VALUES alone: where Citus routes the statement, its condition must be immutable.
_TAKE: Final = """
INSERT INTO tracker_leases AS held (name, holder, renewed_at, expires_at)
VALUES ('{name}', '{holder}', now(), now() + interval '{seconds} seconds')
ON CONFLICT (name) DO UPDATE
SET holder = EXCLUDED.holder, renewed_at = EXCLUDED.renewed_at, expires_at = EXCLUDED.expires_at
WHERE held.expires_at < EXCLUDED.renewed_at OR held.holder = EXCLUDED.holder
"""
_GIVE_BACK: Final = """
UPDATE tracker_leases SET expires_at = renewed_at WHERE name = '{name}' AND holder = '{holder}'
"""


class Lease:
    """One holder's claim to a name, by the server's clock; no session state, so any connection will do.

    It keeps two holders from doing the same work, not from overlapping for a moment: one that was frozen
    for longer than the lease lasts may still be at it. What it does must bear that.
    """

    def __init__(self, name: str) -> None:
        """Nothing is taken yet; the holder is this object. `name` is one of the code's, a plain word."""
        self._name = name
        self._holder = uuid4()
        self.held = False
        """Whether it was ours when last asked for."""

    async def take(self, connection: Connection) -> bool:
        """Take the lease, or prolong it, and return whether it is ours for `SECONDS` from now on."""
        statement = _TAKE.format(name=self._name, holder=self._holder, seconds=SECONDS)
        with translated():
            self.held = await connection.execute(statement) == "INSERT 0 1"
        return self.held

    async def give_back(self, connection: Connection) -> None:
        """Let the next one take it at once; a lease that is another's by now stays as it is."""
        self.held = False
        with translated():
            await connection.execute(_GIVE_BACK.format(name=self._name, holder=self._holder))
