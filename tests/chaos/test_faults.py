"""The quick faults of the matrix, two rounds each; `make chaos` plays all of them, as often as you like."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults import FAULTS
from tests.chaos.table import passed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.fault import Fault
    from tracker_daemon.embedded import NatsServer, PostgresServer

ROUNDS = 2
SEED = 3


@pytest.mark.timeout(300)
@pytest.mark.parametrize("fault", [pytest.param(fault, id=fault.name) for fault in FAULTS if fault.quick])
async def test_it_loses_nothing_and_doubles_nothing(
    fault: Fault, nats_server: NatsServer, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    report = await fault.run(nats_server, postgres_server, tmp_path, rounds=ROUNDS, seed=SEED, whole=False)
    assert passed(report), report
