"""The round: PostgreSQL, also where questions go, NATS, the provider; no one's trouble hides another's."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

import nats.errors

from tracker_daemon.doctor import embeddings, jetstream, postgres, questions
from tracker_daemon.doctor.finding import Finding
from tracker_daemon.errors import Misconfigured, TrackerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tracker_daemon.config import Settings

TIMEOUT_SECONDS: Final = 20
"""Each side may take so long."""

_ADDRESSES = {
    "postgres": "TRACKER_POSTGRES_DSN",
    "questions": "TRACKER_QUERY_DSN",
    "nats": "TRACKER_NATS_SERVERS",
}
_LOGIN = "; see TRACKER_NATS_USER and _PASSWORD, _TOKEN, _CREDS_FILE or _NKEY_SEED_FILE"


async def examine(settings: Settings) -> list[Finding]:
    """Look at all that the settings lead to, and return everything found; an outage is a finding too."""
    return [
        finding
        for part, look in (
            ("postgres", postgres.look(settings)),
            ("questions", questions.look(settings)),
            ("nats", jetstream.look(settings)),
            ("embeddings", embeddings.look(settings)),
        )
        async for finding in _bounded(part, look)
    ]


async def _bounded(part: str, look: AsyncIterator[Finding]) -> AsyncIterator[Finding]:
    """Pass findings on; the error that ends them is the last one."""
    try:
        async with asyncio.timeout(TIMEOUT_SECONDS):
            async for finding in look:
                yield finding
    except Misconfigured as error:
        yield Finding(part, "broken", str(error))
    except Unavailable as error:
        yield Finding(part, "broken", f"{error}{_remedy(part, error)}")
    except (TrackerError, nats.errors.Error) as error:
        yield Finding(part, "broken", str(error) or type(error).__name__)
    except TimeoutError:
        yield Finding(part, "broken", f"no answer within {TIMEOUT_SECONDS} s")


def _remedy(part: str, error: Unavailable) -> str:
    """What to do about a server that is not to be had; one that answers has said what is wrong."""
    if "authorization violation" in str(error).lower():
        return _LOGIN
    answers = part != "nats" and not isinstance(error.__cause__, OSError)
    return "" if answers else f"; start it, or change {_ADDRESSES[part]}"
