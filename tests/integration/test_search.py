"""Full-text search, compared with plain Python over the same rows, at every state of its index."""

from __future__ import annotations

import contextlib
import importlib
import itertools
import random
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID, uuid4

import pytest

from tests.factory import decision, deliver, outcome
from tests.record import BEGIN, backdate, known
from tests.texts import index_all, queue, waiting
from tests.texts import store as store_prompts
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import Filter, Searched, reading, search
from tracker_daemon.store import Store

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

    from tests.record import Row

module = importlib.import_module("tracker_daemon.queries.search")  # not the function of that name

WORDS = ["buy", "sell", "breakout", "trend", "rsi", "btc", "eth", "62.1", "2026", "\u00fcber", "\u8cb7\u3044"]


def beside(words: list[str], *wanted: str) -> bool:
    """Whether these stand one after the other."""
    return any(tuple(words[at : at + len(wanted)]) == wanted for at in range(len(words)))


ASKED: dict[str, Callable[[list[str]], bool]] = {
    "breakout": lambda words: "breakout" in words,
    "BreakOut?!": lambda words: "breakout" in words,
    "breakout btc": lambda words: {"breakout", "btc"} <= set(words),
    "(breakout & btc):*": lambda words: {"breakout", "btc"} <= set(words),
    "btc/eth": lambda words: {"btc", "eth"} <= set(words),
    "<rsi>": lambda words: "rsi" in words,
    '"trend breakout"': lambda words: beside(words, "trend", "breakout"),
    '"trend breakout" -sell': lambda words: beside(words, "trend", "breakout") and "sell" not in words,
    'buy "trend breakout': lambda words: "buy" in words and beside(words, "trend", "breakout"),
    "sell or \u00dcBER": lambda words: not {"sell", "\u00fcber"}.isdisjoint(words),
    "\u8cb7\u3044 62.1": lambda words: {"\u8cb7\u3044", "62.1"} <= set(words),
    "rsi -buy": lambda words: "rsi" in words and "buy" not in words,
    "nowhere": lambda _: False,
}


async def fill(dsn: str, *, decisions: int = 120, seed: int = 7) -> None:
    """Store decisions of words by chance, some at the same time, half of them with an outcome."""
    chance = random.Random(seed)  # noqa: S311 - a test's data
    store = Store(dsn)
    for _ in range(3):  # so many rows of the queue
        payloads = [
            decision(
                id=str(UUID(int=chance.getrandbits(128), version=4)),
                agent_name=chance.choice(["momentum", "risk"]),
                prompt=" ".join(chance.choices(WORDS, k=chance.randrange(1, 12))).title(),
                response=chance.choice(["", " / ".join(chance.choices(WORDS, k=2))]),
                timestamp=(BEGIN + timedelta(hours=chance.randrange(100))).isoformat(),
            )
            for _ in range(decisions // 3)
        ]
        await store.write(deliver(*payloads))
        await store.write(
            deliver(*(outcome(payload["id"], timestamp=payload["timestamp"]) for payload in payloads[::2]))
        )
    await store.close()


def words(row: Row) -> list[str]:
    """The words of prompt and response, which here are all between spaces."""
    return [word for word in f"{row['prompt']} {row['response']}".lower().split() if word != "/"]


async def found(sql: asyncpg.Connection, text: str, wanted: Filter, limit: int = 1000) -> list[UUID]:
    """The ids of all pages, one after the other."""
    ids: list[UUID] = []
    cursor = None
    while True:
        async with reading(sql):
            page = await search(sql, text, wanted, limit, cursor)
        assert page.left_out == 0
        ids += [row.decision.id for row in page.rows]
        assert page.looked_at in {None, module.MANY}
        if (cursor := page.cursor) is None:
            return ids
        assert (len(page.rows) < limit) is (page.looked_at is not None)


async def expected(
    sql: asyncpg.Connection,
    holds: Callable[[list[str]], bool],
    wanted: Filter = Filter(),  # noqa: B008
) -> list[UUID]:
    """What plain Python finds, the latest first."""
    rows = [
        row
        for row in await known(sql, wanted.as_of)
        if holds(words(row))
        and wanted.agent_name in {None, row["agent_name"]}
        and wanted.outcome in {None, row["outcome"]}
    ]
    return [row["id"] for row in sorted(rows, key=lambda row: (row["created_at"], row["id"]), reverse=True)]


@pytest.fixture(params=["complete", "lagging", "half"])
async def texts(request: pytest.FixtureRequest, dsn: str, sql: asyncpg.Connection) -> asyncpg.Connection:
    """Return a connection to a record of which the index has all, nothing, or the first half."""
    await fill(dsn)
    if request.param != "lagging":
        await index_all(dsn)
    if request.param == "half":
        await fill(dsn, seed=8)
        assert await waiting(sql)
    await backdate(sql)
    return sql


@pytest.mark.parametrize("many", [20, 10_000])
async def test_what_python_finds_is_found(
    many: int, texts: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a word is taken for a rare or for a common one."""
    monkeypatch.setattr(module, "MANY", many)
    for text, holds in ASKED.items():
        assert await found(texts, text, Filter()) == await expected(texts, holds), text


@pytest.mark.parametrize("many", [20, 10_000])
@pytest.mark.parametrize("limit", [1, 7])
async def test_pages_and_filters(
    many: int, limit: int, texts: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MANY", many)
    now, then = Filter(agent_name="risk"), BEGIN + timedelta(hours=50)
    for wanted in (now, Filter(outcome="SUCCESS"), Filter(as_of=then), Filter(as_of=then, outcome="SUCCESS")):
        hits = await expected(texts, ASKED["breakout"], wanted)
        assert hits
        assert await found(texts, "breakout", wanted, limit) == hits
        assert not set(hits) - set(await expected(texts, ASKED["breakout"]))


async def test_what_is_queued_and_indexed_or_gone_is_found_once_or_not_at_all(
    dsn: str, sql: asyncpg.Connection
) -> None:
    await fill(dsn)
    await index_all(dsn)
    ids = await expected(sql, ASKED["breakout"])
    await queue(sql, *ids, uuid4())
    for limit in (7, 1000):
        assert await found(sql, "breakout", Filter(), limit) == ids
    await sql.execute("DELETE FROM llm_decisions WHERE id = $1", ids[0])
    assert await found(sql, "breakout", Filter()) == ids[1:]


async def test_for_a_page_no_more_is_looked_at_than_many_and_it_says_so(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a phrase the index knows only the words, and here each decision has them."""
    monkeypatch.setattr(module, "MANY", 20)
    ids = await store_prompts(dsn, *(f"stop{' ' if number == 7 else ' the '}loss" for number in range(50)))
    await index_all(dsn)
    for minutes, id_ in enumerate(ids):
        time = BEGIN + timedelta(minutes=minutes)
        await sql.execute("UPDATE llm_decisions SET created_at = $2 WHERE id = $1", id_, time)
    [hit], pages, cursor = ids[7:8], [], None
    for _ in range(3):
        async with reading(sql):
            page = await search(sql, '"stop loss"', Filter(), 5, cursor)
        pages.append(([row.decision.id for row in page.rows], page.looked_at))
        cursor = page.cursor
    assert pages == [([], 20), ([], 20), ([hit], None)]
    assert cursor is None
    async with reading(sql):
        page = await search(sql, '"stop loss"', Filter(until=BEGIN + timedelta(minutes=20)), 5)
    assert ([row.decision.id for row in page.rows], page.looked_at) == ([hit], 20)
    async with reading(sql):
        page = await search(sql, "stop loss", Filter(), 20)
    assert (len(page.rows), page.looked_at) == (20, None)


async def test_of_a_long_queue_the_last_are_looked_at_and_the_others_counted(
    dsn: str, sql: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "MAX_QUEUED", 40)
    await fill(dsn)
    looked_at = set((await waiting(sql))[-40:])
    ids = await expected(sql, ASKED["breakout"])
    async with reading(sql):
        page = await search(sql, "breakout", Filter(), 1000)
    assert page.left_out == 80
    assert {row.decision.id for row in page.rows} == looked_at & set(ids)
    await index_all(dsn)
    async with reading(sql):
        page = await search(sql, "breakout", Filter(), 1000)
    assert page.left_out == 0
    assert [row.decision.id for row in page.rows] == ids


async def test_the_snippet_shows_the_words_and_the_rest_is_as_in_any_list(
    dsn: str, sql: asyncpg.Connection
) -> None:
    store = Store(dsn)
    prompt = f"{'nothing ' * 400_000}"
    [row] = await one(store, sql, "breakout needle", prompt=f"Is it a Breakout? Needle. {prompt}")
    assert "«Breakout»? «Needle»" in row.snippet
    assert len(row.snippet) < 500
    assert (row.decision.prompt, row.decision.cut) == (f"Is it a Breakout? Needle. {prompt}"[:4000], True)
    assert (row.decision.agent_name, row.decision.outcome) == ("momentum", None)
    [row] = await one(store, sql, "deep", prompt=f"{'x ' * 20_000} deep {prompt}", response="{}")
    assert "«deep»" in row.snippet
    assert not await one(store, sql, "deeper", prompt=f"{'x ' * 25_000} deeper", response="{}")
    [row] = await one(store, sql, "answer", prompt=f"{'x ' * 50_000}", response='{"answer": "SELL"}')
    assert '«answer»": "SELL' in row.snippet
    await store.close()


async def one(store: Store, sql: asyncpg.Connection, text: str, **fields: Any) -> tuple[Any, ...]:
    """What is found of a decision like that."""
    assert await store.write(deliver(decision(**fields))) == ["stored"]
    async with reading(sql):
        page = await search(sql, text, Filter())
    return page.rows


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "no word to look for"),
        ("  \t\n", "no word to look for"),
        ("?! & | :* -- \"\" ''", "no word to look for"),
        ("-buy", "say a word that is there too"),
        ("sell or -buy", "say a word that is there too"),
        ("x" * 1_000_000, "at most 1000 characters, not 1000000"),
        ("nul\0", "the database cannot look for that"),
    ],
    ids=range(7),
)
async def test_what_cannot_be_looked_for_is_refused(text: str, says: str, sql: asyncpg.Connection) -> None:
    with pytest.raises(InvalidQuestion, match=says):
        async with reading(sql):
            await search(sql, text, Filter())


ODD = [
    "'",
    "''';--",
    '"',
    "a & | b",
    "a:*",
    "<->",
    "a <-> b",
    "or",
    "a or",
    "\\",
    "-",
    "%s {0} $1",
    "(((",
    "\U0001f4c8",
]
LONG = ["\U00020000" * 1000, "\u0130\u0301" * 500, "-a " * 330, '"' * 1000, "a or " * 200]


@pytest.mark.parametrize("text", ODD + LONG, ids=repr)
async def test_odd_texts_are_looked_for_or_refused(text: str, texts: asyncpg.Connection) -> None:
    """Which characters make words may depend on the locale of the database."""
    with contextlib.suppress(InvalidQuestion):
        async with reading(texts):
            assert isinstance(await search(texts, text, Filter()), Searched)


async def test_a_cursor_belongs_to_its_text_and_limits_hold(dsn: str, sql: asyncpg.Connection) -> None:
    await fill(dsn)
    async with reading(sql):
        page = await search(sql, "breakout", Filter(), 3)
    for text, wanted in itertools.product(("breakout", "trend"), (Filter(), Filter(agent_name="risk"))):
        if (text, wanted) != ("breakout", Filter()):
            with pytest.raises(InvalidQuestion, match="the cursor belongs to another question"):
                async with reading(sql):
                    await search(sql, text, wanted, 3, page.cursor)
    with pytest.raises(InvalidQuestion, match="limit must be from 1 to 1000"):
        async with reading(sql):
            await search(sql, "breakout", Filter(), 1001)
