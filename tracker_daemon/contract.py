"""The contract of the messages as an installation has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tracker_daemon.messages import Contract

if TYPE_CHECKING:
    from tracker_daemon.config import Settings


def contract_of(settings: Settings) -> Contract:
    """What the settings add to the contract of the messages."""
    return Contract(
        settings.nats.decisions_subject,
        settings.nats.outcomes_subject,
        settings.nats.max_payload_bytes,
        settings.embedding.dimensions,
        settings.redact.redactor,
        embeds=settings.embedding.provider != "none",
    )
