"""Answers that fit into one message: pages and lists that end earlier, texts that are cut."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from tracker_daemon.errors import TrackerError
from tracker_daemon.queries import Answer, Page, Told, Whole, as_json

if TYPE_CHECKING:
    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries import Question

MAX_ROWS: Final = 100
"""Rows of a page: to decode and encode more would hold up everything else for too long."""


class TooLarge(TrackerError):
    """An answer does not fit into a message, whatever is left out of it."""


async def reply(question: Question, connection: Connection, most: int) -> bytes | None:
    """Ask inside `reading` and return the answer as JSON of at most `most` bytes; None: there is none.

    A page that is too large ends earlier, with the cursor for what follows, and so does a list of groups,
    which is not `complete` then. Of a single decision prompt and response are `cut`. Raises `TooLarge` where
    that is not enough.
    """
    limit = getattr(question, "limit", None)
    if limit is not None:
        question = replace(question, limit=min(limit, MAX_ROWS))
    answer = await question.answer(connection)
    if answer is None:
        return None
    while len(data := as_json(answer)) > most:
        match answer:
            case Page(rows=(_, _, *_) as rows):
                question = replace(question, limit=len(rows) // 2)
                answer = await question.answer(connection)
            case Answer(groups=(_, _, *_) as groups):
                answer = replace(answer, groups=groups[: len(groups) // 2], complete=False)
            case Page(rows=(Told() as row,)) if row.prompt or row.response:
                answer = replace(answer, rows=(_shorter(row, len(data) - most),))
            case Whole(decision=row) if row.prompt or row.response:
                answer = replace(answer, decision=_shorter(row, len(data) - most))
            case _:
                raise TooLarge(
                    f"the answer takes {len(data)} bytes where NATS takes {most}: ask about less, or raise "
                    "max_payload of the server"
                )
    return data


def _shorter(row: Told, excess: int) -> Told:
    """The decision with texts whose JSON takes so many bytes less; the longer text loses first."""

    def size(chars: int) -> int:
        return len(as_json((row.prompt[:chars], row.response[:chars])))

    longest = max(len(row.prompt), len(row.response))
    room = max(0, size(longest) - excess)
    most = min(longest, room)
    places = range(0, most + 1, 1 + most // 64)  # each one that is looked at costs milliseconds
    keep = places[max(0, bisect_right(places, room, key=size) - 1)]
    return replace(row, prompt=row.prompt[:keep], response=row.response[:keep], cut=True)
