"""The tracker: what an agent decided, what came of it, and what the record says of both."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from tracker_daemon.client import keywords
from tracker_daemon.client.call import Call
from tracker_daemon.client.chosen import Chooser, Chosen
from tracker_daemon.client.outbox import Outbox
from tracker_daemon.client.payload import check, finite, new_id, recorded, written
from tracker_daemon.config import EmbeddingSettings
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, contract_field
from tracker_daemon.queries import (
    MAX_TOKEN_BUDGET,
    TOKEN_BUDGET,
    Page,
    asked,
    fit_briefing,
    questions,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from datetime import datetime
    from typing import Unpack
    from uuid import UUID

    from nats.aio.client import Client

    from tracker_daemon.client.side import Asked, Listing, Side
    from tracker_daemon.queries import (
        AlikePrompts,
        Briefing,
        Calibration,
        Precedents,
        Searched,
        Stats,
        Told,
        Whole,
    )
    from tracker_daemon.redaction import Redactor

log = logging.getLogger(__name__)

T = TypeVar("T")
Question = TypeVar("Question", bound=Struct)
Rows = TypeVar("Rows", bound=Page[Any])

MAX_QUEUED_BYTES: Final = 32 << 20
CLOSE_SECONDS: Final = 5.0
_CONTRACT: Final = Contract()


class DecisionTracker:
    """Records decisions and outcomes without ever holding up or breaking an agent, and asks about them.

    Tracking returns at once: what cannot be handed over yet waits in a bounded queue, and what has no room
    there is counted in `dropped`. With `confirm` a call returns once its message is safe (the stream has it,
    or PostgreSQL a committed row), and raises if it is not: `InvalidPayload` for a value that the contract
    refuses, `Unavailable` if that took too long, while it goes on waiting in the queue. Questions raise
    `InvalidQuestion`, and `Unavailable` where nobody answers now.
    """

    def __init__(self, side: Side, max_queued_bytes: int = MAX_QUEUED_BYTES) -> None:
        """Stand on a side, see `over_nats` and `on_postgres`; nothing is connected before there is need."""
        if isinstance(side, str):  # not repeated: it may hold a password
            raise TypeError(
                "an address alone does not say what is there: "
                "DecisionTracker.over_nats(servers) publishes to NATS, "
                "DecisionTracker.on_postgres(dsn) writes to the database"
            )
        self._side = side
        self._outbox = Outbox(side, max_queued_bytes)
        self._chooser = Chooser(side)

    @classmethod
    def over_nats(
        cls,
        servers: str | Sequence[str] | Client,
        *,
        decisions_subject: str = _CONTRACT.decisions_subject,
        outcomes_subject: str = _CONTRACT.outcomes_subject,
        query_subject: str = "llm.query",
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> Self:
        """Publish to the daemons' stream, which confirms, unlike a daemon in core mode; ask the daemons.

        `servers`: URLs, or one text of them with commas, or a connected client of the caller's, which brings
        TLS and login, and stays open in the end.
        """
        from tracker_daemon.client.over_nats import OverNats  # noqa: PLC0415 - each side loads its own driver

        subjects = {
            _CONTRACT.decisions_subject: decisions_subject,
            _CONTRACT.outcomes_subject: outcomes_subject,
        }
        if isinstance(servers, str):
            servers = [server.strip() for server in servers.split(",")]
        return cls(OverNats(servers, subjects, query_subject), max_queued_bytes)

    @classmethod
    def on_postgres(
        cls,
        dsn: str,
        *,
        redactor: Redactor | None = None,
        embedding: EmbeddingSettings | None = None,
        max_queued_bytes: int = MAX_QUEUED_BYTES,
    ) -> Self:
        """Write to a migrated database as the daemon does, and ask it; no NATS, no daemon is needed.

        `redactor` cuts out of messages what must not be kept, and `embedding` names the provider for texts
        that are asked about; the daemon's settings do not reach here.
        """
        from tracker_daemon.client.on_postgres import OnPostgres  # noqa: PLC0415 - the same

        return cls(OnPostgres(dsn, redactor, embedding or EmbeddingSettings()), max_queued_bytes)

    async def __aenter__(self) -> Self:
        """Do nothing yet."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close."""
        await self.close()

    @property
    def dropped(self) -> int:
        """Decisions and outcomes that were not recorded: the queue was full, or they were refused."""
        return self._outbox.dropped

    async def flush(self) -> None:
        """Return once everything tracked before is safe, or dropped, however long that takes."""
        await self._outbox.flush()

    async def close(self, seconds: float = CLOSE_SECONDS) -> None:
        """Flush for so long at most, and disconnect; what is left then is dropped."""
        await self._outbox.close(seconds)

    async def track_decision(self, *, confirm: bool = False, **fields: Unpack[keywords.Decision]) -> UUID:
        """Record a decision, made now unless it has a `timestamp`; return its `id`, given or made here."""
        return await self._decide("track_decision", keywords.Decision, fields, confirm)

    async def track_signal_decision(
        self, *, confirm: bool = False, **fields: Unpack[keywords.Signal]
    ) -> UUID:
        """Record a decision of the type `signal`."""
        return await self._decide(
            "track_signal_decision", keywords.Signal, fields, confirm, decision_type="signal"
        )

    async def track_risk_decision(
        self, *, approved: bool, confirm: bool = False, **fields: Unpack[keywords.Answered]
    ) -> UUID:
        """Record a decision of the type `risk_approval`, with the action `APPROVE` or `VETO`."""
        return await self._decide(
            "track_risk_decision",
            keywords.Answered,
            fields,
            confirm,
            decision_type="risk_approval",
            action="APPROVE" if approved else "VETO",
        )

    def decision(self, **fields: Unpack[keywords.CallOf]) -> Call:
        """A block that asks a model, `async with tracker.decision(…) as d:`; set `d.response` and more in it.

        It is tracked when it ends, with its `latency_ms`. If it ends in an exception, which goes on, the
        decision has the exception in `extra`, and the response that was set before, if any.
        """
        keywords.check("decision", fields, keywords.CallOf)
        return Call(fields.get("id") or new_id(), dict(fields), self.track_decision)

    async def update_decision_outcome(
        self,
        decision_id: UUID,
        outcome: Literal["SUCCESS", "FAILURE", "PENDING"],
        pnl: keywords.Number | None = None,
        *,
        confirm: bool = False,
        **fields: Unpack[keywords.Event],
    ) -> None:
        """Record what came of a decision, seen now unless it has a `timestamp`; the latest outcome shows."""
        keywords.check("update_decision_outcome", fields, keywords.Event)
        known = {"decision_id": decision_id, "outcome": outcome, "pnl": pnl}
        await self._track(_CONTRACT.outcomes_subject, fields | known, confirm)

    async def assign(self, experiment: str, unit: str | UUID, *, default: str) -> Chosen:
        """The arm by which a unit of an experiment, such as a session, is decided.

        Nothing is waited for long, and no outage raises: then the model is the `default`, and `fallback` says
        why. `InvalidQuestion` is raised for what is no name at all.
        """
        return await self._chooser.assign({"experiment": experiment, "unit": unit}, default)

    async def select_model(
        self,
        agent_name: str,
        decision_type: str,
        key: str | UUID,
        candidates: Sequence[str] | None = None,
        *,
        default: str,
    ) -> Chosen:
        """Which model decides about a key, among the policy's candidates or some; else as `assign`."""
        asked = {
            "agent_name": agent_name,
            "decision_type": decision_type,
            "key": key,
            "candidates": candidates,
        }
        return await self._chooser.select(asked, default)

    async def get_decision_stats(
        self, agent_name: str | None = None, **conditions: Unpack[keywords.Maturing]
    ) -> Stats:
        """The statistics of these decisions, all together; `ask` has groups, and tells what was left out."""
        answer = await self.ask(_question(questions.Stats, agent_name, conditions))
        return answer.groups[0]

    async def get_calibration(
        self, agent_name: str | None = None, **conditions: Unpack[keywords.Stating]
    ) -> Calibration:
        """What the confidences of these decisions are worth, all together; `ask` has groups."""
        answer = await self.ask(_question(questions.Calibration, agent_name, conditions))
        return answer.groups[0]

    async def get_recent_decisions(
        self, agent_name: str | None = None, **conditions: Unpack[keywords.Listing]
    ) -> Page[Told]:
        """The latest decisions, 20 unless there is a `limit`."""
        return await self._list(_question(questions.Recent, agent_name, conditions))

    async def get_successful_decisions(
        self, agent_name: str | None = None, **conditions: Unpack[keywords.Listing]
    ) -> Page[Told]:
        """The successful decisions, the greatest P&L first."""
        return await self._list(_question(questions.Successful, agent_name, conditions))

    async def get_failed_decisions(
        self, agent_name: str | None = None, **conditions: Unpack[keywords.Listing]
    ) -> Page[Told]:
        """The failed decisions, the greatest loss first."""
        return await self._list(_question(questions.Failed, agent_name, conditions))

    async def search_decisions(
        self, text: str, agent_name: str | None = None, **conditions: Unpack[keywords.Listing]
    ) -> Searched:
        """The latest decisions whose prompt and response hold all words of a text, each with a snippet.

        "Several words" stand beside each other, -word is not there, `or` is between words of which one is
        enough. Where very many decisions hold the words, a page ends after so many as it has `looked_at`.
        """
        return await self._list(_question(questions.Search, agent_name, {**conditions, "text": text}))

    async def find_similar_decisions(
        self,
        symbol: str | None,
        context: Mapping[str, Any],
        limit: int = 20,
        agent_name: str | None = None,
        **conditions: Unpack[keywords.Resembling],
    ) -> Precedents:
        """The decisions about a symbol (None: any) made in situations like this context, the nearest first.

        With each: the distance, what came of it, and how far apart which indicators are; in `summary` all of
        them in numbers, and in a sentence. There are none where nothing is near.
        """
        asked = {**conditions, "symbol": symbol, "situation": recorded(context), "limit": limit}
        return await self.ask(_question(questions.Similar, agent_name, asked))

    async def build_context(
        self,
        agent_name: str | None,
        symbol: str | None,
        context: Mapping[str, Any],
        token_budget: int = TOKEN_BUDGET,
        counter: Callable[[str], int] | None = None,
        **conditions: Unpack[keywords.Informing],
    ) -> Briefing:
        """What the record says to an agent in a situation; its `text` is Markdown to be put into a prompt.

        Success in similar situations, the agent's record, what its confidence is worth, its open and latest
        decisions, in whole lines: what matters most, within the budget as `counter` counts tokens, or as
        `queries.estimate_tokens` does. Stored texts are quoted in it so that they stay data.
        """
        asked = {**conditions, "symbol": symbol, "situation": recorded(context)}
        budget = {"token_budget": MAX_TOKEN_BUDGET if counter else token_budget}
        briefing = await self.ask(_question(questions.Context, agent_name, asked | budget))
        return fit_briefing(briefing.facts, token_budget, counter) if counter else briefing

    async def find_similar_prompts(
        self,
        text: str | None = None,
        limit: int = 20,
        agent_name: str | None = None,
        **conditions: Unpack[keywords.Embedding],
    ) -> AlikePrompts:
        """The decisions whose prompts are nearest to a text, or to an `embedding` of `embedding_model`.

        With each its distance. `hybrid`: the words of the text count as well, see `search_decisions`, and
        each has its rank by either.
        """
        asked = {**conditions, "text": text, "limit": limit}
        if (embedding := conditions.get("embedding")) is not None:
            asked["embedding"] = [finite(float(number)) for number in embedding]
        return await self.ask(_question(questions.Prompts, agent_name, asked))

    async def get_decision(self, decision_id: UUID, as_of: datetime | None = None) -> Whole | None:
        """One decision with its ledger of outcomes, at a time or now; None: there is none."""
        return await self.ask(questions.One(id=decision_id, as_of=as_of))

    async def ask(self, question: Asked[T]) -> T:
        """Ask any question of `tracker_daemon.choices.ENDPOINTS` as it is answered there."""
        return await self._side.ask(question)

    async def _list(self, question: Listing[Rows]) -> Rows:
        """As many as were asked for: over NATS a page ends where a message is full."""
        page = await self.ask(question)
        while page.cursor and len(page.rows) < question.limit and not getattr(page, "looked_at", None):
            left = question.limit - len(page.rows)
            rest = replace(question, limit=left, cursor=page.cursor)  # type: ignore[type-var] # all are structs
            page = page.joined(await self.ask(rest))
        return page

    async def _decide(self, method: str, kind: Any, given: Any, confirm: bool, **more: str) -> UUID:
        keywords.check(method, given, kind)
        id_: UUID = given.get("id") or new_id()
        await self._track(_CONTRACT.decisions_subject, {**given, **more, "id": id_}, confirm)
        return id_

    async def _track(self, subject: str, fields: Mapping[str, Any], confirm: bool) -> None:
        try:
            message = written(subject, fields)
        except InvalidPayload as error:
            if confirm:
                raise
            self._outbox.drop(error)
            return
        try:
            check(message, fields)
        except InvalidPayload as error:
            if confirm:
                raise
            where = contract_field(error)
            log.warning("this goes to the dead letters: %s at %s: %s", error.reason, where, error.detail)
        entry = self._outbox.put(message)
        if confirm:
            await self._outbox.confirm(entry)


def _question(kind: type[Question], agent_name: str | None, conditions: Mapping[str, Any]) -> Question:
    fields = {name: finite(value) for name, value in conditions.items()}
    return asked({**fields, "agent_name": agent_name}, kind)
