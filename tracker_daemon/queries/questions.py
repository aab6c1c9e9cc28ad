"""Questions as JSON: what may be asked from outside, each with the answer that it gets."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any, Final, Self, TypeVar
from uuid import UUID

import msgspec
from msgspec import Meta, Struct

from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries.briefing import (
    MAX_TOKEN_BUDGET,
    TOKEN_BUDGET,
    Briefing,
    Quoting,
    fit_briefing,
    gather_facts,
)
from tracker_daemon.queries.calibration import MAX_BUCKETS, MIN_BUCKETS, Calibrations, calibration
from tracker_daemon.queries.decisions import (
    Told,
    Whole,
    decision,
    failed_decisions,
    recent_decisions,
    successful_decisions,
)
from tracker_daemon.queries.filter import Filter, Time
from tracker_daemon.queries.page import MAX_LIMIT, Page
from tracker_daemon.queries.prompts import MAX_ALIKE, AlikePrompts, similar_prompts
from tracker_daemon.queries.search import Searched, search
from tracker_daemon.queries.similar import MAX_PRECEDENTS, Precedents, similar_decisions
from tracker_daemon.queries.situation import MAX_DISTANCE, MIN_OVERLAP, Situation
from tracker_daemon.queries.stats import Answer, Key, decision_stats

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tracker_daemon.postgres import Connection

T = TypeVar("T", bound=Struct)

Seconds = Annotated[float, Meta(ge=0, le=10 * 365 * 86400)]
Limit = Annotated[int, Meta(ge=1, le=MAX_LIMIT)]


class Stats(Filter, frozen=True, kw_only=True):
    """How good are these decisions? `maturity_seconds`: those that young are left out.

    None leaves that to the settings, see `matured`.
    """

    group_by: tuple[Key, ...] = ()
    maturity_seconds: Seconds | None = None

    async def answer(self, connection: Connection) -> Answer:
        """Ask inside `reading`."""
        maturity = timedelta(seconds=self.maturity_seconds or 0)
        return await decision_stats(connection, self, self.group_by, maturity=maturity)


class Calibration(Filter, frozen=True, kw_only=True):
    """What is their confidence worth? `maturity_seconds` as in `Stats`."""

    group_by: tuple[Key, ...] = ()
    buckets: Annotated[int, Meta(ge=MIN_BUCKETS, le=MAX_BUCKETS)] = 10
    maturity_seconds: Seconds | None = None

    async def answer(self, connection: Connection) -> Calibrations:
        """Ask inside `reading`."""
        maturity = timedelta(seconds=self.maturity_seconds or 0)
        return await calibration(connection, self, self.group_by, buckets=self.buckets, maturity=maturity)


class _List(Filter, frozen=True, kw_only=True):
    """Decisions, page by page."""

    limit: Limit = 20
    cursor: str | None = None


class Recent(_List, frozen=True, kw_only=True):
    """The latest decisions."""

    async def answer(self, connection: Connection) -> Page[Told]:
        """Ask inside `reading`."""
        return await recent_decisions(connection, self, self.limit, self.cursor)


class Successful(_List, frozen=True, kw_only=True):
    """The successful decisions, by P&L."""

    async def answer(self, connection: Connection) -> Page[Told]:
        """Ask inside `reading`."""
        return await successful_decisions(connection, self, self.limit, self.cursor)


class Failed(_List, frozen=True, kw_only=True):
    """The failed decisions, by P&L, the worst first."""

    async def answer(self, connection: Connection) -> Page[Told]:
        """Ask inside `reading`."""
        return await failed_decisions(connection, self, self.limit, self.cursor)


class Search(_List, frozen=True, kw_only=True):
    """The latest decisions whose prompt and response hold what is looked for, written as for a web search."""

    text: str

    async def answer(self, connection: Connection) -> Searched:
        """Ask inside `reading`."""
        return await search(connection, self.text, self, self.limit, self.cursor)


class Similar(Filter, frozen=True, kw_only=True):
    """The decisions made in situations like this one, and what came of them.

    `situation` is like the `context` of a decision; `weights` (0 to 1000, else 1) go by the path of an
    indicator in it, as in macd.line or vetoes[0]. Near are decisions at `max_distance` (0 to 1) or less that
    share `min_overlap` (0 to 1) of the situation, by weight. `resolved`: only those whose outcome is known.
    """

    situation: dict[str, Any]
    weights: dict[str, float] = msgspec.field(default_factory=dict)
    max_distance: float = MAX_DISTANCE
    min_overlap: float = MIN_OVERLAP
    resolved: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_PRECEDENTS)] = 20

    async def answer(self, connection: Connection) -> Precedents:
        """Ask inside `reading`."""
        situation = Situation(
            context=self.situation,
            weights=self.weights,
            max_distance=self.max_distance,
            min_overlap=self.min_overlap,
        )
        return await similar_decisions(connection, situation, self, self.limit, resolved=self.resolved)


class Context(Filter, frozen=True, kw_only=True):
    """What the record says to an agent in a situation, as a block of a prompt: `token_budget` tokens at most.

    `situation` as in `Similar`, whose decisions may be those of any agent and model; of those that the
    conditions choose there are statistics, calibration, the open and the latest ones. `quoting`: short parts
    of no stored texts, of `responses`, or of prompts too. `maturity_seconds` as in `Stats`.
    """

    situation: dict[str, Any]
    token_budget: Annotated[int, Meta(ge=1, le=MAX_TOKEN_BUDGET)] = TOKEN_BUDGET
    quoting: Quoting = "responses"
    maturity_seconds: Seconds | None = None

    async def answer(self, connection: Connection) -> Briefing:
        """Ask inside `reading`."""
        facts = await gather_facts(
            connection,
            self,
            Situation(context=self.situation),
            quoting=self.quoting,
            maturity=timedelta(seconds=self.maturity_seconds or 0),
        )
        return fit_briefing(facts, self.token_budget)


class Prompts(Filter, frozen=True, kw_only=True):
    """The decisions whose prompts are like a text, or near to an embedding of the model `embedding_model`.

    `hybrid`: the words of the text count as well, written as for a web search, and a decision that holds all
    of them comes before one that is as near.
    """

    text: str | None = None
    embedding: tuple[float, ...] | None = None
    hybrid: bool = False
    limit: Annotated[int, Meta(ge=1, le=MAX_ALIKE)] = 20

    async def embedded(self, embed: Callable[[str], Awaitable[tuple[str, tuple[float, ...]]]]) -> Self:
        """The question with an embedding, its own or its text's: `embed` gives its model with each."""
        if self.embedding is not None:
            return self
        if self.text is None:
            raise InvalidQuestion("say what the prompts are to be like: a text, or an embedding")
        model, embedding = await embed(self.text)
        if self.embedding_model not in {None, model}:
            raise InvalidQuestion(
                f"a text gets its embedding from {model} here, and those of {self.embedding_model} cannot be "
                "compared with it: leave embedding_model out, or ask with an embedding"
            )
        return msgspec.structs.replace(self, embedding=embedding, embedding_model=model)

    async def answer(self, connection: Connection) -> AlikePrompts:
        """Ask inside `reading`, once the question is `embedded`."""
        if self.embedding is None:
            raise InvalidQuestion("there is no embedding of the text to look for")
        if self.hybrid and self.text is None:
            raise InvalidQuestion("without a text there are no words to look for: leave hybrid out")
        words = self.text if self.hybrid else None
        return await similar_prompts(connection, self.embedding, self, self.limit, words=words)


class One(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One decision, with its ledger; as the record was at a time, or is now."""

    id: UUID
    as_of: Time | None = None

    async def answer(self, connection: Connection) -> Whole | None:
        """Ask inside `reading`; None: there is no such decision."""
        return await decision(connection, self.id, self.as_of)


Question = Stats | Calibration | Recent | Successful | Failed | One | Search | Similar | Context | Prompts

QUESTIONS: Final[dict[str, type[Question]]] = {
    "stats": Stats,
    "calibration": Calibration,
    "recent": Recent,
    "successful": Successful,
    "failed": Failed,
    "decision": One,
    "search": Search,
    "similar": Similar,
    "context": Context,
    "prompts": Prompts,
}
"""The questions by the name under which they are asked."""


def parse(data: bytes, kind: type[T]) -> T:
    """Read a question from JSON, of which nothing at all is an empty object; or raise `InvalidQuestion`."""
    try:
        return msgspec.json.decode(data or b"{}", type=kind)
    except msgspec.ValidationError as error:
        raise InvalidQuestion(str(error)) from None
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        raise InvalidQuestion("the question is no JSON object") from None


def asked(fields: Any, kind: type[T]) -> T:
    """Return the question with these fields, refused in the words that JSON of them would be refused in."""
    try:
        data = as_json(fields)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidQuestion(f"there is no JSON for it: {error}") from None
    return parse(data, kind)


def matured(question: T, seconds: float) -> T:
    """The question with a maturity window of so many seconds, if it can have one and gives none."""
    if getattr(question, "maturity_seconds", seconds) is None:
        return msgspec.structs.replace(question, maturity_seconds=seconds)
    return question


def as_json(answer: Any) -> bytes:
    """An answer as JSON: times in RFC 3339, decimals as strings, which keep every digit."""
    return msgspec.json.encode(answer)
