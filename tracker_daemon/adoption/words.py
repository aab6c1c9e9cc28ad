"""The words that someone else's table has for outcomes, and what they mean here."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages.values import outcome_word
from tracker_daemon.migrate import STATEMENT_SECONDS

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracker_daemon.postgres import Connection

Words = dict[str, str]
"""SUCCESS, FAILURE or PENDING by the word of the table."""


def parse_word(text: str) -> tuple[str, str]:
    """Parse `profitable=SUCCESS`; raise ValueError, with a sentence, if it is not like that."""
    word, equals, outcome = text.rpartition("=")
    try:
        if equals:
            return word, outcome_word(outcome)
    except InvalidPayload:
        pass
    raise ValueError(f"{text!r} must look like WORD=SUCCESS, WORD=FAILURE or WORD=PENDING")


async def read_words(connection: Connection, given: Mapping[str, str]) -> tuple[Words, list[str]]:
    """What every word that is still to be entered means, and a sentence for each that nobody knows."""
    rows = await connection.fetch(
        "SELECT outcome::text AS word, count(*) AS rows FROM llm_decisions "
        "WHERE outcome IS NOT NULL GROUP BY 1 ORDER BY 2 DESC, 1",
        timeout=STATEMENT_SECONDS,
    )
    words, unknown = Words(), []
    for word, count in rows:
        try:
            words[word] = given[word] if word in given else outcome_word(word)
        except InvalidPayload:
            unknown.append(
                f"the outcome {word!r} of {count} rows means nothing here: say what it means, "
                f"--outcome {shlex.quote(f'{word}=SUCCESS')} or =FAILURE or =PENDING"
            )
    return words, unknown
