"""The benchmark's messages: the same each time, as large and as compressible as promised, and valid."""

from __future__ import annotations

import zlib
from datetime import UTC, datetime
from statistics import mean

import pytest

from tests.bench import rows
from tests.bench.rows import DEFAULT, EMBEDDED, KINDS, LARGE, SMALL, Kind
from tracker_daemon.messages import Contract, Decision, Message, Outcome, decode

BYTES = {DEFAULT: 2_700, SMALL: 550, LARGE: 20_000, EMBEDDED: 20_500}


def decoded(payload: bytes, subject: str = "llm.decisions") -> Decision | Outcome:
    return decode(Message(subject, payload, stream="LLM", sequence=1, published_ns=1), Contract())


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
class TestPayloads:
    def test_are_the_same_each_time(self, kind: Kind) -> None:
        assert list(rows.payloads(kind, 20)) == list(rows.payloads(kind, 20))
        assert list(rows.payloads(kind, 20)) != list(rows.payloads(kind, 20, seed=1))

    def test_do_not_depend_on_how_many_there_are(self, kind: Kind) -> None:
        assert list(rows.payloads(kind, 20))[:5] == list(rows.payloads(kind, 5))

    def test_are_as_large_as_promised(self, kind: Kind) -> None:
        sizes = [len(payload) for payload in rows.payloads(kind, 300)]
        assert mean(sizes) == pytest.approx(BYTES[kind], rel=0.03)
        assert max(sizes) < 1.3 * BYTES[kind]

    def test_are_what_the_contract_accepts_without_unknown_fields(self, kind: Kind) -> None:
        for payload in rows.payloads(kind, 100):
            decision = decoded(payload)
            assert isinstance(decision, Decision)
            assert decision.extra is None
            assert (decision.prompt_embedding is not None) == kind.embedded

    def test_have_ids_of_their_own_and_known_sessions(self, kind: Kind) -> None:
        decisions = [decoded(payload) for payload in rows.payloads(kind, 100)]
        assert len({decision.id for decision in decisions if isinstance(decision, Decision)}) == 100
        assert {d.session_id for d in decisions if isinstance(d, Decision)} <= set(rows.SESSIONS)


def test_prose_is_as_compressible_as_real_text() -> None:
    for kind in (DEFAULT, LARGE):
        assert 1.9 < mean(len(p) / len(zlib.compress(p)) for p in rows.payloads(kind, 100)) < 3


def test_renamed_decisions_differ_in_their_id_alone() -> None:
    originals = list(rows.payloads(DEFAULT, 3))
    renamed = [decoded(payload) for payload in rows.renamed(originals, 7, seed=5)]
    assert len({decision.id for decision in renamed if isinstance(decision, Decision)}) == 7
    for decision, original in zip(renamed, originals * 3, strict=False):
        assert isinstance(decision, Decision)
        assert decision.prompt == getattr(decoded(original), "prompt", None)
    assert list(rows.renamed(originals, 7, seed=5)) != list(rows.renamed(originals, 7, seed=6))


def test_a_stamp_replaces_the_time_alone() -> None:
    [payload] = rows.payloads(DEFAULT, 1)
    now = datetime(2026, 7, 1, 12, 0, 0, 5, tzinfo=UTC)
    stamped = decoded(rows.stamped(payload, now))
    assert isinstance(stamped, Decision)
    assert stamped.created_at == now
    assert rows.stamped(rows.stamped(payload, now), getattr(decoded(payload), "created_at", now)) == payload


def test_each_decision_has_one_outcome() -> None:
    decisions = list(rows.payloads(DEFAULT, 50))
    outcomes = [decoded(payload, "llm.outcomes") for payload in rows.outcomes(decisions)]
    assert {str(outcome.decision_id) for outcome in outcomes if isinstance(outcome, Outcome)} == {
        rows.identity(payload) for payload in decisions
    }
