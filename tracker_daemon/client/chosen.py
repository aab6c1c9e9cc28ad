"""What an agent decides by: an arm, a model, or its own default, where nobody says which."""

from __future__ import annotations

import asyncio
import logging
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final, TypeVar

import msgspec
from msgspec import Struct

from tracker_daemon.choices import Assign, Name, Select
from tracker_daemon.errors import InvalidQuestion, TrackerError
from tracker_daemon.queries import asked

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tracker_daemon.client.side import Asked, Side

# Not structlog: this runs in other people's programs, and goes where their lines go.
log = logging.getLogger(__name__)

T = TypeVar("T")
Question = TypeVar("Question", Assign, Select)

CHOICE_SECONDS: Final = 0.2
"""How long an agent waits before it decides by its default."""


class Chosen(Struct, frozen=True, kw_only=True):
    """The model, and what else an arm says; `unit` is what it was chosen for.

    `fallback` says why the model is the agent's default; there is no propensity then, so that the decision is
    weighted with nothing. Else `age_seconds` is how old the choice's grounds are.
    """

    model: str
    unit: str
    experiment: str | None = None
    variant: str | None = None
    propensity: Decimal | None = None
    prompt_version: str | None = None
    parameters: dict[str, Any] = msgspec.field(default_factory=dict)
    why: str | None = None
    age_seconds: float | None = None
    fallback: str | None = None

    def fields(self) -> dict[str, Any]:
        """What a decision says of it, as keywords of `tracker.decision` and all methods that track one."""
        if self.fallback is not None:
            return {"model": self.model}
        return {
            "model": self.model,
            "experiment": self.experiment,
            "variant": self.variant,
            "propensity": self.propensity,
            "extra": {"experiment_unit": self.unit},
        }


class Chooser:
    """Asks a side what to decide by, never for long; logs once that none answers, and once that one does."""

    def __init__(self, side: Side) -> None:
        """Stand on a side."""
        self._side = side
        self._troubled: set[str] = set()

    async def assign(self, fields: Mapping[str, Any], default: str) -> Chosen:
        """The arm of a unit, with the default where it names no model; `fields`: those of `Assign`."""
        question = _question(Assign, fields, default)
        told, trouble = await self._ask(question, question.experiment)
        if told is None:
            return Chosen(model=default, unit=question.unit, fallback=trouble)
        return Chosen(
            model=told.model or default,
            unit=question.unit,
            experiment=told.experiment,
            variant=told.variant,
            propensity=told.propensity,
            prompt_version=told.prompt_version,
            parameters=told.parameters,
            age_seconds=told.age_seconds,
        )

    async def select(self, fields: Mapping[str, Any], default: str) -> Chosen:
        """The model for a key; `fields`: those of `Select`."""
        question = _question(Select, fields, default)
        told, trouble = await self._ask(question, f"{question.agent_name}/{question.decision_type}")
        if told is None:
            return Chosen(model=default, unit=question.key, fallback=trouble)
        return Chosen(
            model=told.model,
            unit=question.key,
            propensity=told.propensity,
            why=told.why,
            age_seconds=told.age_seconds,
        )

    async def _ask(self, question: Asked[T], about: str) -> tuple[T | None, str | None]:
        """The answer, or why there is none."""
        try:
            async with asyncio.timeout(CHOICE_SECONDS):
                told = await self._side.ask(question)
        except (TimeoutError, TrackerError) as error:
            trouble = str(error) or f"no answer within {CHOICE_SECONDS:g} s"
            if about not in self._troubled:
                self._troubled.add(about)
                log.warning("the default decides in place of %s: %s", about, trouble)
            return None, trouble
        if about in self._troubled:
            self._troubled.discard(about)
            log.info("%s decides again", about)
        return told, None


def _question(kind: type[Question], fields: Mapping[str, Any], default: str) -> Question:
    """The question as a daemon would read it, refused in the same words."""
    try:
        msgspec.convert(default, Name)
    except msgspec.ValidationError as error:
        raise InvalidQuestion(f"the default must be the name of a model: {error}") from None
    return asked(fields, kind)
