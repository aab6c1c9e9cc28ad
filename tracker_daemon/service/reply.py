"""Answers that fit into one message: pages and lists that end earlier, texts that are cut."""

from __future__ import annotations

from bisect import bisect_right
from itertools import accumulate, takewhile
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from tracker_daemon.errors import TrackerError
from tracker_daemon.queries import (
    Alike,
    AlikePrompts,
    Answer,
    Calibrations,
    Found,
    Page,
    Precedents,
    Told,
    Whole,
    as_json,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from msgspec import Struct

    from tracker_daemon.postgres import Connection
    from tracker_daemon.queries import Question

MAX_ROWS: Final = 100
"""Rows of a page: to decode and encode more would hold up everything else for too long."""
FRAME_BYTES: Final = 1024
"""What may stand around rows and groups: a cursor, above all."""


class TooLarge(TrackerError):
    """An answer does not fit into a message, whatever is left out of it."""


async def reply(question: Question, connection: Connection, most: int) -> bytes | None:
    """Ask inside `reading` and return the answer as JSON of at most `most` bytes; None: there is none.

    A page that is too large ends earlier, with the cursor for what follows, and so do prompts alike,
    precedents, of which `near` says how many there are, and a list of groups, which is not `complete` then.
    Of a single decision the earlier events of a long ledger are left out, prompt and response `cut`, and
    where `context` and `extra` alone are too large, these are left out. Raises `TooLarge` where that is not
    enough.
    """
    limit = getattr(question, "limit", None)
    if limit is not None:
        question = replace(question, limit=min(limit, MAX_ROWS))
    answer = await question.answer(connection)
    rows, room = _rows(answer, most)
    if (fitting := _fitting(rows, room)) < len(rows):
        question = replace(question, limit=fitting)
        answer = await question.answer(connection)
    if answer is None:
        return None
    while len(data := as_json(answer)) > most:
        match answer:
            case Answer(groups=(_, _, *_) as groups) | Calibrations(groups=(_, _, *_) as groups):
                answer = replace(answer, groups=groups[: _fitting(groups, most)], complete=False)
            case Page(rows=(Told() as row,)) if less := _less(row, len(data), most):
                answer = replace(answer, rows=(less,))
            case (
                Page(rows=(Found(decision=row) as found,))
                | AlikePrompts(rows=(Alike(decision=row) as found,))
            ) if less := _less(row, len(data), most):
                answer = replace(answer, rows=(replace(found, decision=less),))
            case Whole(outcomes=(_, _, *_) as events) if len(as_json(events)) > most // 2:
                answer = replace(answer, outcomes=events[len(events) // 2 :], complete=False)
            case Whole(decision=row) if less := _less(row, len(data), most):
                answer = replace(answer, decision=less)
            case _:
                raise TooLarge(
                    f"the answer takes {len(data)} bytes where NATS takes {most}: ask about less, or raise "
                    "max_payload of the server"
                )
    return data


def _rows(answer: object, most: int) -> tuple[Sequence[Struct], int]:
    """What a limit counts, and the bytes that there are for it."""
    match answer:
        case Page(rows=rows) | AlikePrompts(rows=rows):
            return rows, most
        case Precedents(precedents=rows):
            return rows, most - len(as_json(replace(answer, precedents=())))
    return (), most


def _fitting(parts: Sequence[Struct], most: int) -> int:
    """How many of them, one at least, fit into so many bytes; only one more than that is encoded."""
    sizes = accumulate(len(as_json(part)) + 1 for part in parts)
    return max(1, sum(1 for _ in takewhile(lambda size: size <= most - FRAME_BYTES, sizes)))


def _less(row: Told, size: int, most: int) -> Told | None:
    """The decision with less of it, where the answer has such a size; None: there is nothing to leave out."""
    texts = len(as_json((row.prompt, row.response)))
    if (row.context or row.extra) and size - texts > most - FRAME_BYTES:
        return replace(row, context=None, extra=None, cut=True)
    if row.prompt or row.response:
        return _shorter(row, size - most)
    return None


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
