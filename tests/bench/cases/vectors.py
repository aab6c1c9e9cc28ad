"""Which index finds the nearest prompts: embeddings of real text, compared with a look at all of them."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

import asyncpg
import numpy as np
from msgspec import Struct
from pgvector.asyncpg import register_vector

from tests.bench.bench import Bench, Goal, Line, Result
from tests.bench.cpu import on_cpu
from tests.bench.embedding import embeddings
from tests.bench.figures import Spread, percentile
from tests.bench.growing import FILLING
from tests.bench.texts import texts
from tracker_daemon.config.settings import LOCAL_DIMENSIONS
from tracker_daemon.embeddings.local import Local
from tracker_daemon.migrate import migrate
from tracker_daemon.queries import Filter, reading, similar_prompts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tests.bench.stage import Stage

SIZES: Final = (10_000, 100_000, 1_000_000)
LEAST: Final = 200
"""Rows of which every agent has some."""
QUESTIONS: Final = 100
INSERTED: Final = 10_000
"""Embeddings that come into an index that is there."""
NEAREST: Final = 10

EVERYBODY: Final = "%"
SHARES: Final = {"agent-1": 0.01, "agent-10": 0.1}
"""Agents by their part of the decisions; the others are another's."""
RECALL: Final = Goal(0.98, 0.995)
"""Of the nearest, and of others at the same distance."""
MILLISECONDS: Final = Goal(30, 10, least=False)
"""The 95th percentile."""

Ask = Callable[["NDArray[np.float32]"], Awaitable[list[float]]]
"""What returns the distances of the nearest, the least first."""

_COLUMNS: Final = (
    *("id", "agent_name", "decision_type", "symbol", "prompt", "response", "model"),
    *("prompt_embedding", "embedding_model"),
)
_SEARCH: Final = """
WITH candidate AS MATERIALIZED (
    SELECT prompt_embedding <=> $1::vector AS distance FROM llm_decisions WHERE id IN (
        SELECT d.id FROM {table} i JOIN llm_decisions d ON d.id = i.decision_id
        WHERE d.agent_name LIKE $2 AND d.embedding_model = $3
        ORDER BY {nearness} LIMIT {candidates}
    )
)
SELECT distance FROM candidate ORDER BY distance LIMIT {nearest}
"""
_EXACT: Final = """
SELECT prompt_embedding <=> $1::vector AS distance FROM llm_decisions
WHERE agent_name LIKE $2 AND embedding_model = $3 ORDER BY distance LIMIT {nearest}
"""
_MAKE_SIGNS: Final = f"""
CREATE TABLE llm_embedding_signs (decision_id UUID PRIMARY KEY, signs BIT({LOCAL_DIMENSIONS}) NOT NULL)
"""


class Scan(Struct, frozen=True):
    """How an index is asked: among how many it looks at a time, for how many candidates of each wanted."""

    ef_search: int
    oversampling: int
    order: str = "relaxed_order"
    most: int = 20_000

    def __str__(self) -> str:
        order = self.order.removesuffix("_order")
        return f"ef {self.ef_search}, {self.oversampling} each, {order}, {self.most:,} at most"


class Kind(Struct, frozen=True):
    """A side table and its index: what it holds of an embedding, and by what that is near.

    `scans` are for all decisions, and `filtered` where a filter has them go on.
    """

    table: str
    column: str
    made: str
    operators: str
    nearness: str
    scans: tuple[Scan, ...]
    filtered: tuple[Scan, ...]

    @property
    def index(self) -> str:
        """Its name."""
        return f"{self.table}_{self.column}"


KINDS: Final = (
    Kind(
        "llm_embedding_index",
        "direction",
        "l2_normalize(prompt_embedding)::halfvec",
        "halfvec_cosine_ops",
        f"i.direction <=> $1::vector::halfvec({LOCAL_DIMENSIONS})",
        tuple(Scan(ef, 4) for ef in (40, 100, 200, 400, 800)),
        (
            Scan(400, 4),
            Scan(400, 4, "strict_order"),
            Scan(400, 4, most=5_000),
            Scan(400, 4, most=100_000),
        ),
    ),
    Kind(
        "llm_embedding_signs",
        "signs",
        "binary_quantize(prompt_embedding)",
        "bit_hamming_ops",
        "i.signs <~> binary_quantize($1::vector)",
        (Scan(200, 20), Scan(500, 50), Scan(1_000, 100), Scan(1_000, 200)),
        (Scan(1_000, 100),),
    ),
)


async def run(bench: Bench) -> Result:
    """Fill a table, ten times as large each time, and ask each index the same questions."""
    sizes = [max(LEAST, bench.scaled(size)) for size in SIZES]
    inserted = bench.scaled(INSERTED)
    count = sizes[-1] + inserted + QUESTIONS
    vectors = await embeddings(bench, count)
    async with bench.stage(FILLING) as stage:
        sql = await _database(stage)
        try:
            race = Race(bench, sql, vectors, list(texts(count)))
            for size in sizes:
                await race.fill(size)
                await race.ask_exactly()
                for kind in KINDS:
                    await race.build(kind)
                    await race.ask(kind)
                await race.ask_the_product()
                await race.fill(size + inserted)
                for kind in KINDS:
                    await race.keep(kind, inserted)
        finally:
            await sql.close()
    return race.result


async def _database(stage: Stage) -> asyncpg.Connection:
    """One for embeddings by `local`."""
    await stage.sql.execute("CREATE DATABASE prompts")
    dsn = stage.postgres.dsn("prompts")
    await migrate(dsn, LOCAL_DIMENSIONS)
    sql = await asyncpg.connect(dsn)
    await register_vector(sql)
    await sql.execute(_MAKE_SIGNS)
    return sql


class Race:
    """A table of decisions that grows, and what each index makes of it."""

    def __init__(
        self, bench: Bench, sql: asyncpg.Connection, vectors: NDArray[np.float32], prompts: list[str]
    ) -> None:
        """The first vectors are asked about, and never stored."""
        self.result = Result()
        self._bench = bench
        self._sql = sql
        self._asked, self._vectors = vectors[:QUESTIONS], vectors[QUESTIONS:]
        self._prompts = prompts[QUESTIONS:]
        directions = self._vectors / np.linalg.norm(self._vectors, axis=1, keepdims=True)
        self._directions: NDArray[np.float32] = directions.astype(np.float32)
        shares = [*SHARES.values(), 1 - sum(SHARES.values())]
        self._agents = np.random.default_rng(1).choice([*SHARES, "others"], len(self._vectors), p=shares)
        self._stored = 0

    async def fill(self, size: int) -> None:
        """Store decisions until there are so many."""
        self._bench.say(f"vectors: filling the table up to {size:,} rows")
        rows = (self._row(number) for number in range(self._stored, size))
        await self._sql.copy_records_to_table("llm_decisions", records=rows, columns=_COLUMNS, timeout=3_600)
        await self._sql.execute("VACUUM ANALYZE llm_decisions", timeout=1_800)
        self._stored = max(self._stored, size)

    def _row(self, number: int) -> tuple[Any, ...]:
        prompt, embedding = self._prompts[number], self._vectors[number]
        agent = str(self._agents[number])
        return (UUID(int=number), agent, "signal", "BTC", prompt, "", "m", embedding, Local.model)

    async def build(self, kind: Kind) -> None:
        """Make an index of all that is stored."""
        sql, table = self._sql, kind.table
        await sql.execute(f"TRUNCATE {table}; DROP INDEX IF EXISTS {kind.index}")
        await sql.execute(f"INSERT INTO {table} SELECT id, {kind.made} FROM llm_decisions", timeout=1_800)
        began = time.perf_counter()
        await sql.execute(
            f"CREATE INDEX {kind.index} ON {table} USING hnsw ({kind.column} {kind.operators})", timeout=7_200
        )
        seconds = time.perf_counter() - began
        size = await sql.fetchval("SELECT pg_relation_size($1::regclass)", kind.index)
        await sql.execute(f"VACUUM ANALYZE {table}", timeout=1_800)
        figure = f"{seconds:.0f} s, {size / 1e6:.0f} MB"
        self._note(f"{kind.column}: build", figure, seconds=seconds, bytes=size)

    async def keep(self, kind: Kind, rows: int) -> None:
        """Bring the decisions that were stored last into an index, as upkeep does it."""
        began = time.perf_counter()
        await self._sql.execute(
            f"INSERT INTO {kind.table} SELECT id, {kind.made} FROM llm_decisions WHERE id >= $1",
            UUID(int=self._stored - rows),
            timeout=1_800,
        )
        rate = rows / (time.perf_counter() - began)
        self._note(f"{kind.column}: upkeep", f"{rate:,.0f}/s", rate=rate)

    async def ask(self, kind: Kind) -> None:
        """Ask an index about everybody's decisions, and about some agents'."""
        for agent in (EVERYBODY, *SHARES):
            for scan in kind.scans if agent == EVERYBODY else kind.filtered:
                await self._sql.execute(
                    "SET enable_seqscan = off; SET enable_sort = off;"
                    f"SET hnsw.ef_search = {scan.ef_search};"
                    f"SET hnsw.iterative_scan = {scan.order}; SET hnsw.max_scan_tuples = {scan.most}"
                )
                query = _SEARCH.format(
                    table=kind.table,
                    nearness=kind.nearness,
                    candidates=scan.oversampling * NEAREST,
                    nearest=NEAREST,
                )
                await self._answer(f"{kind.column} {scan}", agent, self._query(query, agent))
        await self._sql.execute("RESET ALL")

    async def ask_exactly(self) -> None:
        """Look at all decisions that the filter leaves."""
        for agent in SHARES:
            await self._answer("exact", agent, self._query(_EXACT.format(nearest=NEAREST), agent))

    async def ask_the_product(self) -> None:
        """Ask as everybody does."""
        for agent in (EVERYBODY, *SHARES):
            recall, p95 = await self._answer("similar_prompts", agent, self._question(agent))
            for judged, goal in ((recall, RECALL), (p95, MILLISECONDS)):
                line = Line("", f"{judged:.3f}", Spread(judged, judged, judged), goal)
                self.result.lines.append(line)

    def _question(self, agent: str) -> Ask:
        wanted = Filter(agent_name=None if agent == EVERYBODY else agent, embedding_model=Local.model)

        async def ask(embedding: NDArray[np.float32]) -> list[float]:
            async with reading(self._sql):
                found = await similar_prompts(self._sql, embedding.tolist(), wanted, NEAREST)
            return [row.distance for row in found.rows if row.distance is not None]

        return ask

    def _query(self, query: str, agent: str) -> Ask:
        async def ask(embedding: NDArray[np.float32]) -> list[float]:
            rows = await self._sql.fetch(query, embedding, agent, Local.model)
            return [row["distance"] for row in rows]

        return ask

    async def _answer(self, name: str, agent: str, ask: Ask) -> tuple[float, float]:
        """Ask about each, and return the recall, and the 95th percentile of milliseconds."""
        for asked in self._asked:  # what has to come into PostgreSQL's memory first is another question
            await ask(asked)
        answers, milliseconds, cpu = [], [], []
        server = self._sql.get_server_pid()
        for asked in self._asked:
            began, used = time.perf_counter(), time.process_time() + on_cpu(server)
            answers.append(await ask(asked))
            milliseconds.append((time.perf_counter() - began) * 1000)
            cpu.append((time.process_time() + on_cpu(server) - used) * 1000)
        mine = self._directions[: self._stored]
        if agent != EVERYBODY:
            mine = mine[self._agents[: self._stored] == agent]
        hits, wanted = 0, 0
        for asked, distances in zip(self._asked, answers, strict=True):  # NumPy's threads keep cores busy
            nearest = np.sort(1 - mine @ (asked / np.linalg.norm(asked)))[:NEAREST]
            hits += sum(distance <= nearest[-1] + 1e-6 for distance in distances)
            wanted += len(nearest)
        recall, p95 = hits / wanted, percentile(milliseconds, 0.95)
        figure = f"recall {recall:.3f} · p50 {percentile(milliseconds, 0.5):.1f} ms · p95 {p95:.1f} ms"
        figure += f" (at work {percentile(cpu, 0.5):.1f} · {percentile(cpu, 0.95):.1f})"
        measure = f"{name}, {SHARES.get(agent, 1):.0%} of all"
        self._note(measure, figure, recall=recall, milliseconds=milliseconds, cpu=cpu)
        return recall, p95

    def _note(self, measure: str, figure: str, **raw: Any) -> None:
        measure = f"{self._stored:,} rows, {measure}"
        self._bench.say(f"vectors: {measure}: {figure}")
        self.result.records.append({"measure": measure, **raw})
        self.result.lines.append(Line(measure, figure))
