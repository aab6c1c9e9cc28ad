"""Every input that fuzzing found worth keeping, replayed without the fuzzer."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.targets import CONTRACT, TARGETS
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Message, decode

CORPUS = Path(__file__).with_name("corpus")


def inputs(target: str) -> list[Path]:
    return sorted((CORPUS / target).iterdir())


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_keeps_its_promises_on_its_whole_corpus(target: str) -> None:
    """The last file named in the failure's output is the one that breaks it."""
    for path in inputs(target):
        print(path.relative_to(CORPUS))  # noqa: T201 - shown by pytest if the next line fails
        TARGETS[target](path.read_bytes())


@pytest.mark.parametrize("path", inputs("decode"), ids=lambda path: path.name)
def test_a_payload_is_what_its_name_says(path: Path) -> None:
    """`valid-…` is accepted on the subject it is written for, `bad-…` on none; others say nothing."""
    if not path.name.startswith(("valid-", "bad-")):
        return
    refusals = [refusal(path.read_bytes(), subject) for subject in ("llm.decisions", "llm.outcomes")]
    assert (None in refusals) == path.name.startswith("valid-"), refusals


def refusal(payload: bytes, subject: str) -> InvalidPayload | None:
    """Why the payload is refused; None: it is accepted."""
    try:
        decode(Message(subject, payload, stream="S", sequence=1, published_ns=1), CONTRACT)
    except InvalidPayload as error:
        return error
    return None
