"""Publish decisions at a steady rate, each stamped with the moment it is sent: a process of its own.

It speaks NATS by hand, because a client's event loop wakes by the millisecond and gathers what it sends.
"""

from __future__ import annotations

import socket
import sys
import time
from datetime import UTC, datetime
from urllib.parse import urlsplit

from tests.bench.rows import DEFAULT, payloads, renamed, stamped
from tests.bench.stage import DECISIONS

ORIGINALS = 1_000


def main(url: str, rate: float, count: int, seed: int) -> None:
    """Publish so many decisions, so many a second; return when the server has taken the last."""
    messages = list(renamed(list(payloads(DEFAULT, min(count, ORIGINALS))), count, seed))
    address = urlsplit(url)
    with socket.create_connection((address.hostname, address.port)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        server.sendall(b'CONNECT {"verbose":false,"pedantic":false}\r\n')
        start = time.perf_counter() + 0.2
        for number, message in enumerate(messages):
            time.sleep(max(0.0, start + number / rate - time.perf_counter()))
            payload = stamped(message, datetime.now(UTC))
            server.sendall(b"PUB %s %d\r\n%s\r\n" % (DECISIONS.encode(), len(payload), payload))
        # The server asks for a PONG now and then; two unanswered, minutes apart, would end the connection.
        server.sendall(b"PONG\r\nPING\r\n")
        said = b""
        while b"PONG" not in said:
            if not (more := server.recv(65_536)):
                raise ConnectionError(f"nats-server hung up: {said[-200:]!r}")
            said += more


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
