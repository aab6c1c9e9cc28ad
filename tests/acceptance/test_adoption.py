"""`tracker-daemon migrate --adopt` as an operator runs it, and a daemon on the table that was adopted."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import asyncpg
import orjson
import pytest

from tests.acceptance.command import SCRIPT, tracker, until
from tests.factory import decision, outcome

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.acceptance.conftest import Run
    from tests.acceptance.stream import Stream

DUMP = Path(__file__).parents[1] / "integration" / "dumps" / "seed.sql"
MORE = 2500
ADVISORY = 42

_MORE_ROWS = f"""
INSERT INTO llm_decisions (decision_type, symbol, prompt, response, model, outcome, pnl, agent_name)
SELECT 'signal', 'ETH', 'p', 'r', 'm', 'SUCCESS', n, 'bulk' FROM generate_series(1, {MORE}) n;
"""
# The rows of one id wait for the test, so that the adoption is in the middle when it is killed.
_BARRIER = f"""
CREATE FUNCTION wait_here() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN PERFORM pg_advisory_xact_lock({ADVISORY}); RETURN NEW; END $$;
CREATE TRIGGER wait_here BEFORE UPDATE ON llm_decisions FOR EACH ROW
WHEN (NEW.id = 'ffffffff-ffff-ffff-ffff-ffffffffffff') EXECUTE FUNCTION wait_here();
"""


@pytest.fixture
async def theirs(database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database in which someone else's table has the dump's rows and many more."""
    connection = await asyncpg.connect(database)
    await connection.execute(DUMP.read_text("utf-8") + _MORE_ROWS)
    yield connection
    await connection.close()


async def killed_in_the_middle(settings: dict[str, str], theirs: asyncpg.Connection) -> None:
    """Kill an adoption once it has entered some outcomes and waits for the last ones."""
    await theirs.execute(_BARRIER)
    await theirs.execute("SELECT pg_advisory_lock($1)", ADVISORY)
    process = await asyncio.create_subprocess_exec(
        SCRIPT, "migrate", "--adopt", env=settings, stdout=asyncio.subprocess.DEVNULL
    )

    async def backend() -> int | None:
        assert process.returncode is None
        pid: int | None = await theirs.fetchval(
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND objid = $1 AND NOT granted", ADVISORY
        )
        return pid

    pid = await until("the adoption is in the middle", backend)
    process.kill()
    await process.wait()
    # A server process that waits for a lock does not notice that its client is gone.
    await theirs.execute("SELECT pg_terminate_backend($1, 10000)", pid)
    await theirs.execute("SELECT pg_advisory_unlock($1)", ADVISORY)
    assert 0 < await theirs.fetchval("SELECT count(*) FROM llm_outcomes") < MORE


async def test_killed_it_goes_on_and_a_daemon_works_on_what_it_leaves(
    run: Run, settings: dict[str, str], database: str, theirs: asyncpg.Connection, stream: Stream
) -> None:
    settings = {**settings, "TRACKER_POSTGRES_DSN": database}
    adopted = await theirs.fetchval("SELECT id FROM llm_decisions WHERE outcome = 'PENDING'")
    rows = await theirs.fetchval("SELECT count(*) FROM llm_decisions")
    decided = await theirs.fetchval(
        "SELECT count(*) FROM llm_decisions WHERE outcome IS NOT NULL OR pnl IS NOT NULL"
    )
    await killed_in_the_middle(settings, theirs)

    refused = await tracker("run", settings=settings)
    assert refused.code == 2
    assert "run tracker-daemon migrate --adopt again, with the same options" in refused.err

    again = await tracker("migrate", "--adopt", settings=settings)
    assert (again.code, again.out[:21]) == (0, "adopted llm_decisions")
    assert await theirs.fetchval("SELECT count(*) FROM llm_outcomes") == decided
    nothing = await tracker("migrate", "--adopt", settings=settings)
    assert (nothing.code, nothing.out) == (0, "nothing to do: every migration is applied\n")

    daemon = await (await run(settings)).ready()
    fresh = uuid4()
    await stream.publish(decision(id=str(fresh), session_id=str(uuid4())), decision(id=str(adopted)))
    await stream.publish(outcome(adopted, "FAILURE", pnl="-7.5"), subject=stream.outcomes)
    await stream.settled(3)
    row = await theirs.fetchrow("SELECT outcome, pnl FROM llm_decisions WHERE id = $1", adopted)
    assert row is not None
    assert (row["outcome"], str(row["pnl"])) == ("FAILURE", "-7.50000000")
    assert await theirs.fetchval("SELECT count(*) FROM llm_decisions") == rows + 1
    assert await theirs.fetchval("SELECT count(*) FROM llm_dead_letters") == 0
    assert (await daemon.metrics())("messages_settled_total", result="duplicate") == 1
    verified = await tracker("verify", settings=settings)
    assert (verified.code, verified.err) == (0, "")
    checked = await tracker("check", "--json", settings=settings)
    assert all(finding["level"] != "broken" for finding in orjson.loads(checked.out)["findings"])
    assert await daemon.stop() == 0


async def test_what_stands_against_it_is_said_line_by_line(
    basics: dict[str, str], database: str, theirs: asyncpg.Connection
) -> None:
    settings = {**basics, "TRACKER_POSTGRES_DSN": database}
    await theirs.execute(
        "UPDATE llm_decisions SET outcome = 'won' WHERE symbol = 'ETH'; "
        "ALTER TABLE llm_decisions ADD venue text NOT NULL DEFAULT 'x'; "
        "ALTER TABLE llm_decisions ALTER venue DROP DEFAULT"
    )
    ended = await tracker("migrate", "--adopt", settings=settings)
    assert (ended.code, ended.out) == (2, "")
    first, *reasons = [line.removeprefix("tracker-daemon: ") for line in ended.err.splitlines()]
    assert first == "llm_decisions cannot be adopted as it is; nothing was changed"
    assert [reason.partition(" of ")[0] for reason in reasons] == [
        "llm_decisions wants a value for venue,",
        "the outcome 'won'",
    ]
    await theirs.execute("ALTER TABLE llm_decisions ALTER venue SET DEFAULT 'x'")
    ended = await tracker("migrate", "--adopt", "--outcome", "won=success", settings=settings)
    assert (ended.code, ended.out[:21]) == (0, "adopted llm_decisions")
    assert await theirs.fetchval("SELECT count(*) FROM llm_outcomes WHERE note = 'won'") >= MORE


async def test_check_names_what_the_table_of_sessions_requires(
    settings: dict[str, str], sql: asyncpg.Connection
) -> None:
    await sql.execute("ALTER TABLE trading_sessions ADD desk text NOT NULL")
    ended = await tracker("check", "--json", settings=settings)
    wrong = {
        finding["part"]: finding["seen"]
        for finding in orjson.loads(ended.out)["findings"]
        if finding["level"] == "broken"
    }
    assert "ALTER COLUMN desk SET DEFAULT" in wrong["sessions"]
