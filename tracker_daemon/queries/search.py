"""Full-text search over prompts and responses, whether or not the index of texts has them yet."""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import TYPE_CHECKING, Final
from uuid import UUID

from msgspec import Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.decisions import SHOWN, Told, told
from tracker_daemon.queries.filter import Filter, Selection
from tracker_daemon.queries.page import Page, Place, check_limit, place, question, rows_of

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection

MAX_CHARS: Final = 1000
"""Characters of what is looked for."""
MANY: Final = 20_000
"""Decisions of the index that are sorted by time; of more, the record is walked backwards instead."""
MAX_QUEUED: Final = 1000
"""Decisions of the queue whose texts are read; the others, queued before them, are not looked at."""

_TEXT: Final = "llm_searched_text(prompt, response)"
_ASKED: Final = "websearch_to_tsquery('simple', llm_searched_text({text}, ''))"
_WORDS: Final = f"SELECT querytree({_ASKED.format(text='$1')})"
# Documents lie beside their table: a scan of it looks cheap to the planner, and takes them all from there.
_BY_INDEX: Final = "SET LOCAL enable_seqscan = {switch}"
_WAITING: Final = "SELECT COALESCE(sum(cardinality(decisions)), 0) FROM llm_text_queue"
# One statement, so one snapshot, and in each snapshot a decision is in the queue or in the index. Ids come as
# arrays, which are looked up by the primary key whatever is guessed about them. Only one of the first two
# parts runs: that for words which few decisions hold, or that for words which are soon met on the way back.
_SEARCH: Final = f"""
WITH indexed AS MATERIALIZED (
    SELECT decision_id FROM llm_text_index WHERE document @@ {{asked}} LIMIT {{many:d}} + 1
), queued AS MATERIALIZED (
    SELECT unnest(decisions) AS decision_id FROM llm_text_queue ORDER BY id DESC LIMIT {{queued:d}}
), found AS (
    (
        SELECT id, created_at FROM {{source}}
        WHERE (SELECT count(*) FROM indexed) <= {{many:d}}
          AND id = ANY(ARRAY(SELECT decision_id FROM indexed)) AND {{condition}} AND {{beyond}}
        ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}
    ) UNION ALL (
        SELECT id, created_at FROM {{source}}
        WHERE (SELECT count(*) FROM indexed) > {{many:d}}
          AND (SELECT document @@ {{asked}} FROM llm_text_index WHERE decision_id = id)
          AND {{condition}} AND {{beyond}}
        ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}
    ) UNION (
        SELECT id, created_at FROM {{source}}
        WHERE id = ANY(ARRAY(SELECT decision_id FROM queued)) AND to_tsvector('simple', {_TEXT}) @@ {{asked}}
          AND {{condition}} AND {{beyond}}
        ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}
    )
)
SELECT {SHOWN}, ts_headline('simple', {_TEXT}, {{asked}}, 'StartSel=«, StopSel=», MaxFragments=2') AS snippet
FROM {{source}}
WHERE id = ANY(ARRAY(SELECT id FROM found ORDER BY created_at DESC, id DESC LIMIT {{limit:d}}))
ORDER BY created_at DESC, id DESC
"""


class Found(Struct, frozen=True):
    """A decision and where its text holds what was looked for: each word of that «so»."""

    decision: Told
    snippet: str


class Searched(Page[Found], frozen=True):
    """A page of what was found; `left_out`: decisions that were not looked at, as the index is far behind."""

    left_out: int


async def search(
    connection: Connection, text: str, wanted: Filter, limit: int = 20, cursor: str | None = None
) -> Searched:
    """Return decisions whose prompt and response hold all words of a text, the latest first.

    Case does not matter; "several words" stand beside each other, -word is not there, and `or` is between
    words of which one is enough. Looked at are the first 50,000 characters of the prompt, and of the
    response. A decision without a time is never found. Ask inside `reading`.
    """
    check_limit(limit)
    if len(text) > MAX_CHARS:
        raise InvalidQuestion(f"look for at most {MAX_CHARS} characters, not {len(text)}")
    _check_words(await connection.fetchval(_WORDS, text))
    asked = question("search", wanted, text)
    chosen = Selection(wanted)
    beyond = "created_at IS NOT NULL"
    if last := place(cursor, asked, tuple[datetime, UUID]):
        time, id_ = map(chosen.parameter, last)
        beyond = f"(created_at, id) < ({time}, {id_})"
    await connection.execute(_BY_INDEX.format(switch="off"))
    query = _SEARCH.format(
        asked=_ASKED.format(text=f"{chosen.parameter(text)}::text"),
        source=chosen.source,
        condition=chosen.condition,
        beyond=beyond,
        limit=limit + 1,
        many=MANY,
        queued=MAX_QUEUED,
    )
    found, more = await rows_of(connection, query, chosen.values, limit)
    await connection.execute(_BY_INDEX.format(switch="DEFAULT"))
    end = Place(asked, [found[-1]["created_at"], found[-1]["id"]]).cursor() if more else None
    left_out = max(await connection.fetchval(_WAITING) - MAX_QUEUED, 0)
    hits = []
    for row in found:
        hits.append(Found(snippet=row.pop("snippet"), decision=told(row)))
        await asyncio.sleep(0)  # a context may hold megabytes, and each has to be decoded
    return Searched(tuple(hits), end, left_out)


def _check_words(present: str) -> None:
    """Refuse what no index can look for: `present` are the words that must be there, T if none must."""
    if not present:
        raise InvalidQuestion("there is no word to look for: letters and digits make words")
    if present == "T":
        raise InvalidQuestion("say a word that is there too: what is not there cannot be looked for alone")
