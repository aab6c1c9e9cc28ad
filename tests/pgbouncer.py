"""Debian's PgBouncer before a PostgreSQL: it speaks TLS, which the wheel's PostgreSQL does not."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING, Any

from tracker_daemon.embedded.servers import _Server
from tracker_daemon.embedded.wheels import postgres_account

if TYPE_CHECKING:
    from pathlib import Path

    from tracker_daemon.embedded import PostgresServer

# Where Debian puts it is on root's PATH alone.
PROGRAM = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")


class PgBouncer(_Server):
    """A PgBouncer on 127.0.0.1 that takes TLS alone; changed attributes hold from the next start on."""

    name = "PgBouncer"
    program = "pgbouncer"
    ready_line = "process up"

    def __init__(self, folder: Path, server: PostgresServer, certificate: Path, pool_mode: str) -> None:
        """Stand before `server`; `certificate` has its key with it, `pool_mode` is PgBouncer's word.

        With a `client_ca` every client has to show a certificate of it.
        """
        super().__init__(folder, "pgbouncer.ini")
        self.certificate = certificate
        self.pool_mode = pool_mode
        self.client_ca: Path | None = None
        self.users = {"tracker": server.passfile.read_text().rstrip().rpartition(":")[2]}
        self._server = server

    def dsn(self, database: str, user: str = "tracker", *, host: str = "127.0.0.1", query: str = "") -> str:
        """Return where clients connect; `query` is the rest of the DSN."""
        return f"postgresql://{user}:{self.users[user]}@{host}:{self.port}/{database}?{query}"

    def stop(self) -> None:
        """End it at once: told to end in good order, it waits for its clients to leave."""
        self.kill()

    def _identity(self) -> dict[str, Any]:
        account = postgres_account()
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}

    def _prepare(self) -> None:
        self.folder.mkdir(exist_ok=True)
        (self.folder / "server.pem").write_text(self.certificate.read_text())
        if self.client_ca:
            (self.folder / "clients.pem").write_text(self.client_ca.read_text())
        users = "".join(f'"{user}" "{password}"\n' for user, password in self.users.items())
        (self.folder / "users.txt").write_text(users)

    def _command(self) -> list[str]:
        demand = f"client_tls_ca_file = {self.folder}/clients.pem" if self.client_ca else ""
        self._mark.write_text(f"""
            [databases]
            * = host=127.0.0.1 port={self._server.port}
            [pgbouncer]
            listen_addr = 127.0.0.1
            listen_port = {self.port}
            unix_socket_dir =
            auth_type = scram-sha-256
            auth_file = {self.folder}/users.txt
            client_tls_sslmode = {"verify-ca" if self.client_ca else "require"}
            client_tls_key_file = {self.folder}/server.pem
            client_tls_cert_file = {self.folder}/server.pem
            pool_mode = {self.pool_mode}
            {demand}
        """)
        assert PROGRAM is not None, "skip a test that needs it where it is not installed"
        return [PROGRAM, str(self._mark)]
