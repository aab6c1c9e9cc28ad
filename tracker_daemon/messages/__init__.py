"""The public contract: `decode` turns one JSON payload into one typed record, or raises `InvalidPayload`.

Pure: it knows neither NATS nor SQL. What it accepts is written down for everyone else in
`schemas/decision.schema.json` and `schemas/outcome.schema.json`; tests hold the two together.
"""

from tracker_daemon.messages.decode import contract_field, decode
from tracker_daemon.messages.records import (
    REASONS,
    Contract,
    DeadLetter,
    Decision,
    Delivery,
    Message,
    Outcome,
    Record,
    Result,
    Token,
    dead_letter,
    uuid7,
)

__all__ = [
    "REASONS",
    "Contract",
    "DeadLetter",
    "Decision",
    "Delivery",
    "Message",
    "Outcome",
    "Record",
    "Result",
    "Token",
    "contract_field",
    "dead_letter",
    "decode",
    "uuid7",
]
