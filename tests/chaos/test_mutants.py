"""The fault kit sees a broken promise: daemons that break one are played like any other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chaos.faults.crashes import after_commit, before_commit
from tests.chaos.faults.poison import refused_rows
from tests.chaos.mutants import ACK_BEFORE_COMMIT, NOT_IDEMPOTENT, WITHOUT_ISOLATION
from tests.chaos.table import passed

if TYPE_CHECKING:
    from pathlib import Path

    from tests.chaos.fault import Fault
    from tests.chaos.mutants import Mutant
    from tracker_daemon.embedded import NatsServer, PostgresServer


@pytest.mark.parametrize(
    ("mutant", "fault", "kind"),
    [
        pytest.param(ACK_BEFORE_COMMIT, before_commit, "lost", id=ACK_BEFORE_COMMIT.name),
        pytest.param(NOT_IDEMPOTENT, after_commit, "twice", id=NOT_IDEMPOTENT.name),
        pytest.param(WITHOUT_ISOLATION, refused_rows, "wrong", id=WITHOUT_ISOLATION.name),
    ],
)
async def test_a_daemon_that_breaks_a_promise_is_found_out(
    mutant: Mutant,
    fault: Fault,
    kind: str,
    nats_server: NatsServer,
    postgres_server: PostgresServer,
    tmp_path: Path,
) -> None:
    package = mutant.make(tmp_path / "mutant")
    report = await fault.run(
        nats_server, postgres_server, tmp_path, rounds=1, seed=11, whole=False, package=package
    )
    assert getattr(report.verdict, kind), report
    assert report.injected
    assert not passed(report)
