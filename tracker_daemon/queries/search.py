"""Full-text search over prompts and responses, whether or not the index of texts has them yet."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Self
from uuid import UUID

from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.decisions import SHOWN, Told, told
from tracker_daemon.queries.filter import Filter, Selection
from tracker_daemon.queries.page import Page, Place, check_limit, place, question
from tracker_daemon.queries.times import bounded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tracker_daemon.postgres import Connection

MAX_CHARS: Final = 1000
"""Characters of what is looked for."""
MANY: Final = 10_000
"""Decisions that are looked at for a page: all that hold the words, or the latest where those are more."""
MAX_QUEUED: Final = 1000
"""Decisions of the queue whose texts are read; the others, queued before them, are not looked at."""

_TEXT: Final = "llm_searched_text(prompt, response)"
_ASKED: Final = "websearch_to_tsquery('simple', llm_searched_text({text}, ''))"
# What the index knows by itself: which words are there, in whatever order.
_WORDS: Final = f"SELECT regexp_replace(querytree({_ASKED.format(text='$1')}), '<[-0-9]+>', '&', 'g')"
_HOLDING: Final = "SELECT decision_id FROM llm_text_index WHERE document @@ {words}::text::tsquery"
_COUNT: Final = f"SELECT count(*) FROM ({_HOLDING.format(words='$1')} LIMIT {{many:d}} + 1) holding"
# Documents lie beside their table: a scan of it looks cheap to the planner, and takes them all from there.
# Each is looked up by its key instead, as it is met.
_BY_INDEX: Final = """
SET LOCAL enable_seqscan = {switch};
SET LOCAL enable_hashjoin = {switch}; SET LOCAL enable_mergejoin = {switch}
"""
_WAITING: Final = "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_text_queue"
_LOOKED_AT: Final = """
SELECT created_at, id FROM {source} WHERE {among} AND {condition} AND {beyond}
ORDER BY created_at DESC, id DESC
"""
_END: Final = f"{_LOOKED_AT} OFFSET {{many:d}} - 1 LIMIT 1"
_LAST: Final = f"SELECT created_at::text AS key, id FROM ({_END}) AS last"
# In a snapshot a decision is in the queue or in the index. Ids come as arrays, which are looked up by the
# primary key whatever is guessed about them. Because of its limit what is looked at is in order before any
# document is read, and no more of them are than it takes; IS TRUE keeps the planner from asking for all
# documents first. Of the queue nothing is shown that lies behind it.
_SEARCH: Final = f"""
WITH queued AS MATERIALIZED (
    SELECT unnest(decisions) AS decision_id FROM llm_text_queue ORDER BY id DESC LIMIT {{queued:d}}
), found AS (
    (
        SELECT id, created_at
        FROM ({_LOOKED_AT} LIMIT {{many:d}}) looked_at JOIN llm_text_index ON decision_id = id
        WHERE (document @@ {{asked}}) IS TRUE
        ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}
    ) UNION (
        SELECT id, created_at FROM {{source}}
        WHERE id = ANY(ARRAY(SELECT decision_id FROM queued)) AND to_tsvector('simple', {_TEXT}) @@ {{asked}}
          AND {{condition}} AND {{beyond}} AND COALESCE((created_at, id) >= ({_END}), true)
        ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}
    )
)
SELECT {SHOWN}, llm_decisions.created_at::text AS key,
       ts_headline('simple', {_TEXT}, {{asked}}, 'StartSel=«, StopSel=», MaxFragments=2') AS snippet
FROM {{source}}
WHERE id = ANY(ARRAY(SELECT id FROM found ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}))
ORDER BY llm_decisions.created_at DESC, id DESC
"""
# Cover density (Clarke, Cormack, Tudhope, 2000): the nearer the words stand to each other, and the oftener,
# the better; divided by the logarithm of the length (1), or long texts would win by theirs.
_RANKED: Final = f"""
SELECT id, {bounded("created_at")} AS created_at,
       rank() OVER (ORDER BY ts_rank_cd(document, {{asked}}, 1) DESC) AS place
FROM (
    SELECT id, created_at, document
    FROM ({_LOOKED_AT} LIMIT {{many:d}}) looked_at JOIN llm_text_index ON decision_id = id
    UNION ALL
    SELECT id, created_at, to_tsvector('simple', {_TEXT}) FROM {{source}}
    WHERE id = ANY(ARRAY(
              SELECT unnest(decisions) AS decision_id FROM llm_text_queue ORDER BY id DESC LIMIT {{queued:d}}
          ))
      AND NOT EXISTS (SELECT FROM llm_text_index WHERE decision_id = id) AND {{condition}} AND {{beyond}}
) readable
WHERE (document @@ {{asked}}) IS TRUE ORDER BY place, created_at DESC, id DESC LIMIT {{depth:d}}
"""


class Found(Struct, frozen=True):
    """A decision and where its text holds what was looked for: each word of that «so»."""

    decision: Told
    snippet: str


class Searched(Page[Found], frozen=True):
    """A page of what was found; `left_out`: decisions that were not looked at, as the index is far behind.

    `looked_at`: too many decisions hold the words for all of them to be looked at, and after so many, the
    latest, the page is not full; the cursor goes on behind them. None: it is full, or there are no more.
    """

    left_out: int
    looked_at: int | None

    def joined(self, more: Self) -> Self:
        """As any pages; what either has left out may be missing, and both may have left out the same."""
        return replace(super().joined(more), left_out=max(self.left_out, more.left_out))


class Ranking(NamedTuple):
    """What holds some words, the best first: rows with `id`, `created_at` and `place`, equal for equals.

    `left_out` and `looked_at` as in `Searched`.
    """

    rows: Sequence[Any]
    left_out: int
    looked_at: int | None


async def search(
    connection: Connection, text: str, wanted: Filter, limit: int = 20, cursor: str | None = None
) -> Searched:
    """Return decisions whose prompt and response hold all words of a text, the latest first.

    Case does not matter; "several words" stand beside each other, -word is not there, and `or` is between
    words of which one is enough. Looked at are the first 50,000 characters of the prompt, and of the
    response. A decision without a time is never found. Ask inside `reading`.
    """
    check_limit(limit)
    words = await _words(connection, text)
    asked = question("search", wanted, text)
    chosen = Selection(wanted)
    beyond = "created_at IS NOT NULL"
    if after := place(cursor, asked, tuple[str, UUID]):
        time, id_ = map(chosen.parameter, after)
        beyond = f"(created_at, id) < ({time}::text::timestamptz, {id_})"
    await connection.execute(_BY_INDEX.format(switch="off"))
    common, among = await _among(connection, chosen, words)
    parts = {"source": chosen.source, "among": among, "condition": chosen.condition, "beyond": beyond}
    ending = _LAST.format(**parts, many=MANY), *chosen.values
    rows = await connection.fetch(
        _SEARCH.format(
            **parts,
            asked=_ASKED.format(text=f"{chosen.parameter(text)}::text"),
            limit=limit + 1,
            many=MANY,
            queued=MAX_QUEUED,
        ),
        *chosen.values,
    )
    more = len(rows) > limit
    last = rows[limit - 1] if more else await connection.fetchrow(*ending) if common else None
    await connection.execute(_BY_INDEX.format(switch="DEFAULT"))
    left_out = await _left_out(connection)
    hits = []
    for row in map(dict, rows[:limit]):
        del row["key"]
        hits.append(Found(snippet=row.pop("snippet"), decision=told(row)))
        await asyncio.sleep(0)  # contexts have to be decoded: messages that arrive meanwhile come first
    end = Place(asked, [last["key"], last["id"]]).cursor() if last else None
    return Searched(tuple(hits), end, left_out, MANY if last and len(rows) < limit else None)


async def ranked(connection: Connection, text: str, wanted: Filter, depth: int) -> Ranking:
    """Return so many decisions that hold all words of a text as for `search`, the best matches first.

    Where more than `MANY` hold the words, those among the latest that the filter chooses.
    """
    words = await _words(connection, text)
    chosen = Selection(wanted)
    await connection.execute(_BY_INDEX.format(switch="off"))
    common, among = await _among(connection, chosen, words)
    query = _RANKED.format(
        source=chosen.source,
        among=among,
        condition=chosen.condition,
        beyond="created_at IS NOT NULL",
        asked=_ASKED.format(text=f"{chosen.parameter(text)}::text"),
        many=MANY,
        queued=MAX_QUEUED,
        depth=depth,
    )
    rows = await connection.fetch(query, *chosen.values)
    await connection.execute(_BY_INDEX.format(switch="DEFAULT"))
    return Ranking(rows, await _left_out(connection), MANY if common else None)


async def _words(connection: Connection, text: str) -> str:
    """The words that must be there; refuse what no index can look for."""
    if len(text) > MAX_CHARS:
        raise InvalidQuestion(f"look for at most {MAX_CHARS} characters, not {len(text)}")
    present: str = await connection.fetchval(_WORDS, text)
    if not present:
        raise InvalidQuestion("there is no word to look for: letters and digits make words")
    if present == "T":
        raise InvalidQuestion("say a word that is there too: what is not there cannot be looked for alone")
    return present


async def _among(connection: Connection, chosen: Selection, words: str) -> tuple[bool, str]:
    """Whether too many decisions hold the words to look at all, and the condition for those to look at."""
    common = await connection.fetchval(_COUNT.format(many=MANY), words) > MANY
    return common, "true" if common else f"id = ANY(ARRAY({_HOLDING.format(words=chosen.parameter(words))}))"


async def _left_out(connection: Connection) -> int:
    waiting: int = await connection.fetchval(_WAITING)
    return max(waiting - MAX_QUEUED, 0)
