"""Messages are redacted before anything looks at them: every string as it is when decoded, and no number."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import Any
from uuid import uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.factory import decision, message, outcome
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, DeadLetter, Decision, Message, Outcome, dead_letter, decode
from tracker_daemon.redaction import Redactor

SECRET = "AKIA0123456789ABCDEF"
CUT = "[redacted:keys]"
PRESETS = ("keys", "tokens", "email", "cards")
CONTRACT = Contract(embedding_dimensions=3, redactor=Redactor(PRESETS))
ID = str(uuid4())
_encoder = msgspec.json.Encoder(decimal_format="number")


def decided(payload: dict[str, Any] | bytes, contract: Contract = CONTRACT) -> Decision:
    record = decode(message(payload, subject="llm.decisions"), contract)
    assert isinstance(record, Decision)
    return record


def letter(one: Message, contract: Contract = CONTRACT) -> DeadLetter:
    with pytest.raises(InvalidPayload) as raised:
        decode(one, contract)
    return dead_letter(one, raised.value)


def own(pattern: str) -> Contract:
    return Contract(embedding_dimensions=3, redactor=Redactor(patterns=[pattern]))


@pytest.mark.parametrize(
    "field",
    [
        *("agent_name", "decision_type", "prompt", "response", "model", "action", "embedding_model"),
        *("experiment", "variant"),
    ],
)
def test_every_text_of_a_decision_is_redacted_labels_too(field: str) -> None:
    assert getattr(decided(decision(**{field: f"{SECRET}"})), field) == CUT


def test_a_symbol_that_is_a_secret_fits_its_column_afterwards() -> None:
    assert decided(decision(symbol=f"{SECRET}ABCDEF")).symbol == CUT


def test_context_and_extra_keep_their_text_apart_from_what_is_cut() -> None:
    record = decided(
        msgspec.json.encode(
            decision()
            | {
                "context": msgspec.Raw(
                    b'{ "rsi" : 62.10,"note":"a\\u0020b", "me@x.de": 123456789012.123456780,'
                    b' "k" :["AKIA0123456789ABCDEF", "say \\"hi\\" to \\n me@x.de \\ud83d\\ude00"] }'
                ),
                "desk": msgspec.Raw(b'{"key":"AKIA0123456789ABCDEF","n":1.50}'),
                SECRET: 1,
            }
        )
    )
    assert record.context == (
        '{ "rsi" : 62.10,"note":"a\\u0020b", "[redacted:email]": 123456789012.123456780,'
        ' "k" :["[redacted:keys]", "say \\u0022hi\\u0022 to \\u000a [redacted:email] 😀"] }'
    )
    assert record.extra == '{"[redacted:keys]":1,"desk":{"key":"[redacted:keys]","n":1.50}}'


def test_an_outcome_is_redacted() -> None:
    record = decode(message(outcome(ID, source=f"a {SECRET}", note="me@x.de!", x=[SECRET])), CONTRACT)
    assert isinstance(record, Outcome)
    assert (record.source, record.note) == (f"a {CUT}", "[redacted:email]!")
    assert record.extra == f'{{"x":["{CUT}"]}}'


def test_a_secret_split_by_escapes_is_found() -> None:
    escaped = "".join(f"\\u{ord(letter):04x}" for letter in SECRET)
    payload = msgspec.json.encode(decision(prompt="PROMPT")).replace(b"PROMPT", f"key {escaped}!".encode())
    assert decided(payload).prompt == f"key {CUT}!"


def test_an_action_in_the_response_is_read_after_redaction() -> None:
    assert decided(decision(response=f'{{"action": "{SECRET}"}}')).action == CUT
    assert decided(decision(response=f'{{"side": "\\u0041{SECRET[1:]}"}}')).action == CUT


def test_the_contracts_names_ids_times_and_numbers_are_no_text() -> None:
    """A pattern of one's own that is too broad costs texts, not whole messages."""
    payload = decision(
        id=ID, session_id=str(uuid4()), timestamp="2026-11-22T10:00:00.5Z", confidence="0.75", prompt="12 ab"
    )
    record = decided(payload, own(r"\w+"))
    assert (str(record.id), str(record.session_id)) == (ID, payload["session_id"])
    assert (record.created_at.year, record.confidence) == (2026, Decimal("0.7500"))
    assert record.prompt == "[redacted:pattern] [redacted:pattern]"


def test_a_text_under_such_a_name_is_text() -> None:
    assert letter(message(decision(id=SECRET))).payload.count(CUT.encode()) == 1
    assert decided(decision(context={"id": f"x {SECRET}"})).context == f'{{"id":"x {CUT}"}}'


@pytest.mark.parametrize(
    "given",
    [
        {"account": {"id": "12345678"}},
        {"pnl": "12345678", "id": ["12345678"]},
        {"timestamp": "2026-11-22 12345678"},
    ],
)
def test_the_same_names_deeper_down_are_not_the_contracts(given: dict[str, Any]) -> None:
    record = decided(decision(context=given, pnl="12345678"), own(r"\d{8}"))
    assert "12345678" not in f"{record.context}"
    assert record.first_outcome is not None
    assert record.first_outcome.pnl == 12345678


@pytest.mark.parametrize(
    "given", [{"id": "12345678"}, {"pnl": ["12345678"]}, {"timestamp": "2026-11-22 12345678"}]
)
def test_what_the_contract_does_not_ask_for_under_a_name_is_text(given: dict[str, Any]) -> None:
    assert b"12345678" not in letter(message(decision(**given)), own(r"\d{8}")).payload


def test_the_content_hash_is_over_what_is_kept() -> None:
    assert decided(decision(prompt=SECRET)).content_hash == decided(decision(prompt=CUT)).content_hash
    assert decided(decision(prompt=SECRET)).content_hash != decided(decision(prompt="x")).content_hash


def test_other_patterns_make_other_content_of_a_message_that_they_match() -> None:
    one, other = own("Buy"), own("Bu")
    assert decided(decision(), one).content_hash != decided(decision(), other).content_hash
    assert decided(decision(prompt="x"), one).content_hash == decided(decision(prompt="x")).content_hash


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (msgspec.json.encode(decision(prompt=SECRET))[:-30], "invalid_json"),
        (b'{"prompt": "it is ' + SECRET.encode(), "invalid_json"),
        (b'"odd" "quotes {prompt: ' + SECRET.encode() + b'"}', "not_an_object"),
        (b"'k' \\u0041KIA0123456789ABCDEF \\x", "invalid_json"),
        (b'{"prompt": "\xff ' + SECRET.encode() + b'"}', "invalid_json"),
        (SECRET.encode(), "invalid_json"),
        (b'["' + SECRET.encode() + b'"]', "not_an_object"),
        (b"[" * 300 + b'"' + SECRET.encode() + b'"' + b"]" * 300, "invalid_json"),
        (msgspec.json.encode(decision(model=None, prompt=SECRET)), "missing_field"),
        (msgspec.json.encode(decision(context={SECRET: {"a": "\0"}})), "nul_character"),
        (b'{"prompt": "half \\ud83d \\u0041KIA0123456789ABCDEF"}', "invalid_field"),
        (msgspec.json.encode(decision(context=SECRET)), "invalid_field"),
        (msgspec.json.encode(decision(prompt=f"{SECRET} " * 60, note=SECRET)), "too_large"),
    ],
)
def test_a_dead_letter_holds_no_secret(payload: bytes, reason: str) -> None:
    contract = msgspec.structs.replace(CONTRACT, max_payload_bytes=1000)
    one = message(payload, subject="llm.decisions")
    one.headers = {f"k-{SECRET}": f"v {SECRET}"}
    found = letter(one, contract)
    assert found.reason == reason
    assert SECRET not in f"{found}"
    assert SECRET.encode() not in found.payload
    assert re.search(rb"\[redacted:keys\]", found.payload)
    assert found.headers == f'{{"k-{CUT}":"v {CUT}"}}'
    again = Message("llm.decisions", found.payload, "LLM", 1, 1)
    with pytest.raises(InvalidPayload):
        decode(again, contract)
    assert again.payload == found.payload


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
def test_a_payload_in_another_encoding_hides_nothing(encoding: str) -> None:
    payload = json.dumps(decision(prompt=f"for j\u00fcrgen@x.de:\n{SECRET}"), ensure_ascii=False)
    found = letter(message(payload.encode(encoding), subject="llm.decisions"))
    seen = found.payload.replace(b"\0", b"")
    assert (seen.count(b"[redacted:email]"), seen.count(CUT.encode())) == (1, 1)
    assert not [part for part in (b"rgen", b"x.de", SECRET.encode()) if part in seen]


def test_bytes_that_are_no_text_end_no_match() -> None:
    """They are taken for Latin-1, and come out as they were."""
    contract = own(r"name: [^\"]+|Müller")
    found = letter(message('{"a": "name: Jürgen Sommer", "b": "é Müller"'.encode("latin-1")), contract)
    assert found.payload == '{"a": "[redacted:pattern]", "b": "é [redacted:pattern]"'.encode("latin-1")
    mixed = '{"a": "Müller, Ж '.encode() + b"\xe9 \xfc"
    assert letter(message(mixed), contract).payload == mixed.replace("Müller".encode(), b"[redacted:pattern]")


@pytest.mark.parametrize("payload", [b"4111111111111111", b"[4111111111111111]", b'"4111 1111 1111 1111"'])
def test_a_payload_that_is_no_object_is_text_with_its_numbers(payload: bytes) -> None:
    assert b"[redacted:cards]" in letter(message(payload)).payload


def test_a_foreign_subject_is_redacted_and_ours_is_not() -> None:
    one = Message(f"llm.{SECRET}", b"{}", "LLM", 1, 1)
    assert letter(one).subject == f"llm.{CUT}"
    contract = msgspec.structs.replace(own("llm"), decisions_subject="llm.decisions")
    assert decided(decision(prompt="llm"), contract).prompt == "[redacted:pattern]"


def test_what_holds_nothing_is_left_as_it_is_byte_by_byte() -> None:
    payload = b'{ "agent_name" : "a\\u0062", "x":[1.0, -0, 1E5, "\\/"] , "y" : 4111111111111111 '
    one = message(payload, subject="llm.decisions")
    assert letter(one).payload == payload.replace(b"4111111111111111", b"[redacted:cards]")
    for whole in (payload + b"}", "é and ".encode() + "é".encode("latin-1"), "{é".encode("utf-16")):
        assert letter(message(whole, subject="llm.decisions")).payload == whole


scalars = st.none() | st.booleans() | st.integers() | st.decimals(allow_nan=False, allow_infinity=False)
texts = st.text() | st.sampled_from([SECRET, f"a {SECRET}", f"{SECRET}\n", "me@x.de", "\\", '"', CUT])
values = st.recursive(
    scalars | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)


def digits(number: str) -> tuple[str]:
    """A number as it was written."""
    return (number,)


def untouched(value: Any, redactor: Redactor) -> Any:
    """What must come out: each string by itself, every number as its digits."""
    match value:
        case str():
            return redactor.redact_text(value)
        case dict():
            return {redactor.redact_text(key): untouched(item, redactor) for key, item in value.items()}
        case list():
            return [untouched(item, redactor) for item in value]
        case _:
            return value


@given(st.dictionaries(texts, values, max_size=4), st.booleans())
def test_strings_are_redacted_each_by_itself_and_numbers_keep_their_digits(
    context: dict[str, Any], escaped: bool
) -> None:
    encoded = _encoder.encode(context)
    written = json.loads(encoded, parse_int=digits, parse_float=digits)
    if escaped:
        encoded = re.sub(rb'(?<!\\)"(\w)', lambda first: b'"\\u%04x' % ord(first[1]), encoded)
    one = Message("other", b'{"prompt": 1, "context": %b}' % encoded, "LLM", 1, 1)
    assert CONTRACT.redactor is not None
    once = letter(one).payload
    assert letter(one).payload == once
    kept = json.loads(once, parse_int=digits, parse_float=digits)
    assert kept == {"prompt": digits("1"), "context": untouched(written, CONTRACT.redactor)}
