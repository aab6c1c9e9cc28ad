"""The published schemas and the decoder agree: what one accepts the other accepts, and nothing more."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from datetime import date
from decimal import Context, Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import pytest
import yaml
from hypothesis import event, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from msgspec.structs import fields

import tracker_daemon
from tracker_daemon.config import AlertSettings
from tracker_daemon.errors import InvalidPayload
from tracker_daemon.messages import Contract, Decision, Message, Outcome, decode
from tracker_daemon.messages.decode import DecisionFields, OutcomeFields
from tracker_daemon.scores.score import Score

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hypothesis.strategies import DataObject, DrawFn, SearchStrategy

SCHEMAS: Final = Path(tracker_daemon.__file__).parent / "schemas"
DIMENSIONS: Final = 3
CONTRACT: Final = Contract(embedding_dimensions=DIMENSIONS)
SUBJECTS: Final = {"decision": CONTRACT.decisions_subject, "outcome": CONTRACT.outcomes_subject}
KINDS: Final = tuple(SUBJECTS)


# Acceptance on both sides.


def schema(kind: str) -> dict[str, Any]:
    """The schema of a kind of message, its bounds as exact decimals."""
    text = (SCHEMAS / f"{kind}.schema.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text, parse_float=Decimal)
    return loaded


def is_whole(_checker: object, value: object) -> bool:
    """What JSON Schema calls an integer: a number without a fraction, however it is written."""
    return isinstance(value, Decimal) and value == value.to_integral_value()


def validator(kind: str) -> Any:
    """A validator of payloads parsed to decimals, whose embeddings have the installation's dimension."""
    narrowed = schema(kind)
    if kind == "decision":
        narrowed["properties"]["prompt_embedding"] |= {"minItems": DIMENSIONS, "maxItems": DIMENSIONS}
    integer = Draft202012Validator.TYPE_CHECKER.redefine("integer", is_whole)
    exact = extend(Draft202012Validator, type_checker=integer)  # type: ignore[no-untyped-call]  # in its stubs
    return exact(narrowed)


VALIDATORS: Final = {kind: validator(kind) for kind in KINDS}


def refuse_constant(name: str) -> NoReturn:
    """NaN and Infinity, which Python reads, are no JSON."""
    raise ValueError(name)


def schema_accepts(kind: str, text: str) -> bool:
    """Whether the text is JSON of well-formed Unicode and valid against the schema, all numbers exact."""
    try:
        payload = json.loads(text, parse_int=Decimal, parse_float=Decimal, parse_constant=refuse_constant)
        json.dumps(payload, ensure_ascii=False, default=str).encode()
    except (ValueError, InvalidOperation):
        return False
    return bool(VALIDATORS[kind].is_valid(payload))


def decoded(kind: str, payload: bytes) -> Decision | Outcome:
    """The record that the decoder makes of a payload at one fixed place in the stream."""
    message = Message(SUBJECTS[kind], payload, stream="LLM", sequence=7, published_ns=1_772_461_800 * 10**9)
    return decode(message, CONTRACT)


def decoder_accepts(kind: str, text: str) -> bool:
    """Whether the decoder makes a record of the text; any error but `InvalidPayload` propagates."""
    try:
        decoded(kind, text.encode())
    except InvalidPayload:
        return False
    return True


# JSON text. Each field has two strategies: values that it takes, and values on both sides of its rule.

UUIDS: Final = ("0195f6a2-7c1e-7d3a-9b54-2f6f1f0a9c11", "5d1f9b0e-33f5-4f7e-8f0b-0a4f7a0f6d52")
FLOAT32_BOUND: Final = 2**128 - 2**104 + 2**74
FLOAT64_BOUND: Final = 2**1024 - 2**970
EXACT: Final = Context(prec=500)

NOT_JSON = ["NaN", "-Infinity", "01", "+1", ".5", "1.", "'x'", "", '"x', '"\t"', '"\\x"', '"\\u00"']
NOT_TEXT = ['"\\u0000"', '"a\\u0000\\n"', '"\\ud800"', '"\\ud800x"', '"\\udc00\\ud800"']
TRICKY_TEXT = ['"\\\\u0000"', '"\\ud83d\\ude00"', '"\\n"', '"\u2028\u007f"', '"\\"\\\\"', '"{[\\"["']
OTHER_TYPES = ["null", "true", "false", "0", "-0", "1.5", "-1", "1e2", "[]", "{}", "[null]", '""', '"x"']
strange = st.sampled_from(OTHER_TYPES) | st.sampled_from(NOT_JSON + NOT_TEXT + TRICKY_TEXT)


@st.composite
def quoted(draw: DrawFn, strings: SearchStrategy[str]) -> str:
    """A JSON string, its characters escaped or not."""
    return json.dumps(draw(strings), ensure_ascii=draw(st.booleans()))


@st.composite
def numbers(draw: DrawFn, bounds: list[str]) -> str:
    """A number on one of the bounds or a step beside it, in one of the ways that JSON has to write it."""
    step = Decimal(draw(st.sampled_from([0, 0, 1, -1, 5]))).scaleb(-draw(st.just(0) | st.integers(0, 24)))
    number = EXACT.add(Decimal(draw(st.sampled_from(bounds))), step)
    sign, digits, exponent = number.as_tuple()
    shifted = "-" * sign + "".join(map(str, digits)) + f"E{exponent}"
    return draw(st.sampled_from([f"{number:f}", f"{number:e}", shifted, f"{number:f}".rstrip("0")]))


def strings(least: int, most: int) -> tuple[SearchStrategy[str], SearchStrategy[str]]:
    """Text of so many characters."""
    character = st.sampled_from("aé😀\n ")
    lengths = st.sampled_from([max(least - 1, 0), least, most, most + 1])
    fits = quoted(st.builds(str.__mul__, character, st.integers(least, most)))
    return fits, quoted(st.builds(str.__mul__, character, lengths)) | strange


# Exponents that no decimal has: neither side reads such a number, be it 0.
unreadable = st.sampled_from(["1e9999999999999999999", "1e-9999999999999999999", "0E+9999999999999999999"])
anything = quoted(st.text(max_size=9).filter(lambda text: "\0" not in text))
text = (anything, anything | strange)


def decimals(*bounds: str) -> tuple[SearchStrategy[str], SearchStrategy[str]]:
    """Exact decimals, as a number or a string; the values of the first strategy fit every such field."""
    fits = st.sampled_from(["0.5", '"0.5"', "1", "5e-1", '"1.000"', '"0.250000000000000000001"'])
    number = numbers([*bounds, "0", "-0", "1e-400", "1e400"]) | unreadable
    spelled = [
        "+1",
        " 1",
        "1 ",
        "1\n",
        "1_0",
        "1e0",
        ".5",
        "1.",
        "01",
        "00",
        "-0",
        "-0.5",
        "NaN",
        "\u0661",
        "-",
    ]
    return fits, number | quoted(number | st.sampled_from(spelled)) | strange


count = (
    st.sampled_from(["0", "12", "12.0", "1.2e1", "2147483647"]),
    numbers(["0", "12", "2147483647", "2147483647", "1e400", "1e-400"])
    | unreadable
    | quoted(st.just("12"))
    | strange,
)


@st.composite
def damaged(draw: DrawFn, strings: SearchStrategy[str]) -> str:
    """A string in which a few characters were removed, put in or replaced."""
    characters = list(draw(strings))
    for _ in range(draw(st.integers(0, 2))):
        at = draw(st.integers(0, len(characters)))
        characters[at : at + draw(st.integers(0, 1))] = draw(st.text("09afgGZz-+:. \n{}\u0661", max_size=1))
    return "".join(characters)


uuid_forms = st.uuids().flatmap(lambda uuid: st.sampled_from([str(uuid), str(uuid).upper(), uuid.hex]))
uuid = (quoted(uuid_forms), quoted(damaged(uuid_forms)) | strange)


@st.composite
def moments(draw: DrawFn, parts: list[list[str]]) -> str:
    """A time put together from one of each of its parts."""
    return "".join(draw(st.sampled_from(part)) for part in parts)


offsets = ["", "Z", "z", "+00:00", "-00:00", "+0530", "-23:59"]
time_forms = st.builds(
    "{:%H:%M:%S}{}{}".format,
    st.times(),
    st.sampled_from(["", ".5", ".123456789", ".99999950", "." + "9" * 30]),
    st.sampled_from(offsets),
)
edges = moments(
    [
        ["0000", "0001", "1900", "2000", "2023", "2024", "9999"],
        ["-"],
        ["00", "01", "02", "04", "12", "13"],
        ["-"],
        ["00", "01", "02", "28", "29", "30", "31", "32"],
        ["T", "T", "t", " ", "_", ""],
        ["00", "23", "24", "23:59"],
        [":00", ":59", ":60"],
        [":00", ":59", ":60", ""],
        ["", "", ".9999994", ".9999995", ".", ",5"],
        [*offsets, "+24:00", "+01", "+1:00", "+01:60", " +01:00", "+01:00:00"],
    ]
)
plain_times = st.builds(
    "{}{}{}".format,
    st.dates(date(1, 1, 2), date(9999, 12, 29)),
    st.sampled_from(["T", "t", " "]),
    time_forms,
)
ends = moments(
    [
        ["0001-01-01", "0001-01-02", "9999-12-30", "9999-12-31"],
        ["T", "t", " "],
        ["00:00:00", "23:59:59"],
        ["", ".9999994999", ".9999995", ".999999"],
        ["", "Z", "+23:59", "-2359"],
    ]
)
time = (quoted(plain_times), quoted(edges | ends | damaged(plain_times)) | strange)

words = st.sampled_from(["SUCCESS", "failure", "Pending", "pENDING"])
word = (
    quoted(words),
    quoted(damaged(words) | st.sampled_from(["\u017fuccess", "fa\u0131lure", "SUCCESS\n", "WIN"])) | strange,
)

big_numbers = numbers(
    ["0", str(2**53), str(2**64), str(FLOAT64_BOUND), str(-FLOAT64_BOUND), "1e400", "1e-400"]
)
good_json = st.sampled_from(["{}", '{"rsi": 41.5, "macd": [-0.8, null]}', '{"a": {"b": {"": true}}}'])


def objects(values: SearchStrategy[str]) -> SearchStrategy[str]:
    """JSON objects of values, which are JSON text; their keys are distinct."""
    keys = st.text(max_size=3) | st.text(max_size=3) | st.sampled_from(["\0", "\ud800", "\\u0000"])
    return st.dictionaries(keys, values, max_size=3).map(lambda members: object_text(list(members.items())))


def arrays(values: SearchStrategy[str], sizes: SearchStrategy[int]) -> SearchStrategy[str]:
    """JSON arrays of values, which are JSON text."""
    items = sizes.flatmap(lambda size: st.lists(values, min_size=size, max_size=size))
    return items.map(lambda texts: f"[{','.join(texts)}]")


any_json = st.recursive(
    st.sampled_from(OTHER_TYPES) | anything | big_numbers | strange,
    lambda values: objects(values) | arrays(values, st.integers(0, 3)),
    max_leaves=4,
)
json_object = (good_json, objects(any_json) | objects(any_json) | good_json | strange)
extra = (anything | good_json, any_json)

float32 = numbers(["0", str(FLOAT32_BOUND), str(-FLOAT32_BOUND), str(FLOAT32_BOUND + 1), "1e400", "1e-400"])
full = st.just(DIMENSIONS)
embedding = (
    arrays(st.sampled_from(["0", "-1.5", "1e-9"]), full),
    arrays(float32, full)
    | arrays(st.just("1"), st.integers(0, DIMENSIONS + 1))
    | arrays(st.sampled_from(["1", "2", "null", '"1"', "true", "[1]"]), full)
    | strange,
)

pnl = decimals("999999999999.999999995", "-999999999999.999999995", "999999999999.99999999")
FIELDS: Final = {
    "decision": {
        "agent_name": strings(1, 100),
        "decision_type": strings(1, 50),
        "symbol": strings(1, 20),
        "prompt": text,
        "response": text,
        "model": strings(1, 100),
        "id": uuid,
        "decision_id": uuid,
        "session_id": uuid,
        "timestamp": time,
        "created_at": time,
        "confidence": decimals("1"),
        "tokens_used": count,
        "latency_ms": count,
        "cost_usd": decimals("99999999.9999995", "99999999.999999"),
        "action": strings(1, 20),
        "context": json_object,
        "metadata": json_object,
        "prompt_embedding": embedding,
        "embedding_model": strings(0, 100),
        "outcome": word,
        "pnl": pnl,
        "outcome_pnl": pnl,
        "experiment": strings(0, 100),
        "variant": strings(0, 100),
        "propensity": decimals("1", "0.00000000005", "0.0000000001"),
        "Symbol": extra,
        "": extra,
        "\0": extra,
    },
    "outcome": {
        "decision_id": uuid,
        "id": uuid,
        "outcome": word,
        "pnl": pnl,
        "outcome_pnl": pnl,
        "timestamp": time,
        "observed_at": time,
        "source": text,
        "note": text,
        "agent_name": extra,
        "é": extra,
    },
}
LEAST: Final = {
    "decision": dict.fromkeys((field.name for field in fields(DecisionFields) if field.required), '"x"'),
    "outcome": {"decision_id": f'"{UUIDS[0]}"', "outcome": '"SUCCESS"'},
}


def aliases(kind: str) -> dict[str, str]:
    """The fields that the schema calls an alias, each with the field that it is an alias of."""
    found = {}
    for alias, rule in schema(kind)["properties"].items():
        if match := re.fullmatch("Alias of `(.+)`.", rule.get("description", "")):
            found[alias] = match[1]
    return found


ALIASES: Final = {kind: aliases(kind) for kind in KINDS}


def object_text(members: list[tuple[str, str]], space: str = " ") -> str:
    """A JSON object of members whose values are JSON text already."""
    texts = [f"{json.dumps(name)}{space}:{space}{value}{space}" for name, value in members]
    return "{" + space + ",".join(texts) + "}" + space


@st.composite
def payloads(draw: DrawFn, kind: str) -> str:
    """A payload with some of its fields, a few of them missing, null, given twice or nearly valid."""
    fields = FIELDS[kind]
    named = draw(st.sets(st.sampled_from([name for name in fields if name != "\0"]), max_size=8))
    members = LEAST[kind] | {name: draw(fields[name][0]) for name in sorted(named)}
    for name in draw(st.lists(st.sampled_from(list(fields)), max_size=2)):
        members[name] = draw(fields[name][1] | st.just("null"))
    for name in draw(st.sets(st.sampled_from(list(fields)), max_size=1)):
        members.pop(name, None)
    for alias, name in ALIASES[kind].items():
        # That two names must agree is beyond JSON Schema, so here they do.
        if members.get(name, "null") != "null" and members.get(alias, "null") != "null":
            members[alias] = members[name]
    again = draw(st.lists(st.tuples(st.sampled_from(list(fields)), st.sampled_from(OTHER_TYPES)), max_size=1))
    space = draw(st.sampled_from(["", "", " ", "\n\t"]))
    return object_text([pair for pair in again if pair[0] in members] + list(members.items()), space)


# The two sides agree.


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in FIELDS[kind]])
@settings(max_examples=150)
@given(data=st.data())
def test_schema_and_decoder_agree_about_every_field(kind: str, name: str, data: DataObject) -> None:
    fits, near = FIELDS[kind][name]
    others = [pair for pair in LEAST[kind].items() if pair[0] not in {name, ALIASES[kind].get(name)}]
    text = object_text([*others, (name, data.draw(near | near | fits))])
    accepted = decoder_accepts(kind, text)
    event(f"accepted: {accepted}")
    assert schema_accepts(kind, text) == accepted, text


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=500)
@given(data=st.data())
def test_schema_and_decoder_agree_about_whole_payloads(kind: str, data: DataObject) -> None:
    text = data.draw(payloads(kind))
    accepted = decoder_accepts(kind, text)
    event(f"accepted: {accepted}")
    assert schema_accepts(kind, text) == accepted, text


def test_schema_and_decoder_agree_about_every_day() -> None:
    leap_days = [f"{year:04}-02-29" for year in range(10000)]
    days = [
        f"{year}-{month:02}-{day:02}" for year in (2023, 2024) for month in range(14) for day in range(33)
    ]
    edges = [f"{year}-{day}" for year in ("0001", "9999") for day in ("01-01", "01-02", "12-30", "12-31")]
    for day in leap_days + days + edges:
        text = object_text([*LEAST["outcome"].items(), ("timestamp", f'"{day}T00:00:00Z"')])
        assert schema_accepts("outcome", text) == decoder_accepts("outcome", text), day


@pytest.mark.parametrize(
    ("kind", "alias", "name"), [(kind, *pair) for kind in KINDS for pair in ALIASES[kind].items()]
)
@settings(max_examples=20)
@given(data=st.data())
def test_an_alias_stands_for_its_field(kind: str, alias: str, name: str, data: DataObject) -> None:
    least = {key: value for key, value in LEAST[kind].items() if key != name}
    first, second = data.draw(FIELDS[kind][name][0]), data.draw(FIELDS[kind][name][0])

    def record(members: dict[str, str]) -> Decision | Outcome:
        return decoded(kind, object_text(list((least | members).items())).encode())

    assert repr(record({alias: first})) == repr(record({name: first}))
    assert repr(record({alias: first, name: first})) == repr(record({name: first}))
    assert repr(record({alias: first, name: "null"})) == repr(record({name: first}))
    if repr(record({name: first})) != repr(record({name: second})):
        with pytest.raises(InvalidPayload, match=f"invalid_field at {alias}"):
            record({alias: first, name: second})


@pytest.mark.parametrize("kind", KINDS)
def test_a_payload_nests_as_deep_as_the_schema_says(kind: str) -> None:
    levels = int(re.findall(r"at most (\d+) levels", schema(kind)["$defs"]["json"]["description"])[0])
    for name in ("context", "anything"):
        inside = ["[" * depth + "]" * depth for depth in (levels - 2, levels - 1)]
        deepest, deeper = (object_text([*LEAST[kind].items(), (name, f'{{"a":{text}}}')]) for text in inside)
        assert decoder_accepts(kind, deepest)
        assert not decoder_accepts(kind, deeper)


@pytest.mark.parametrize("kind", KINDS)
def test_schema_and_decoder_name_the_same_fields(kind: str) -> None:
    fields = {"decision": DecisionFields, "outcome": OutcomeFields}[kind].__struct_fields__
    assert list(schema(kind)["properties"]) == list(fields)
    assert set(FIELDS[kind]) >= set(fields), "a field without a strategy"


def test_the_schemas_call_every_second_name_an_alias() -> None:
    assert ALIASES == {
        "decision": {
            "decision_id": "id",
            "created_at": "timestamp",
            "metadata": "context",
            "outcome_pnl": "pnl",
        },
        "outcome": {"id": "decision_id", "outcome_pnl": "pnl", "observed_at": "timestamp"},
    }


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_required_field_a_payload_is_refused_by_that_name(kind: str) -> None:
    assert {*schema(kind)["required"], "decision_id"} >= set(LEAST[kind])
    for name in LEAST[kind]:
        for members in ({name: "null"}, {}):
            others = {key: value for key, value in LEAST[kind].items() if key != name}
            text = object_text(list((others | members).items()))
            assert not schema_accepts(kind, text)
            with pytest.raises(InvalidPayload, match=f"missing_field at {name}"):
                decoded(kind, text.encode())


# Whatever the bytes, the decoder raises nothing but `InvalidPayload`.


def decode_any(payload: bytes) -> None:
    """Decode a payload as either kind of message; any error but `InvalidPayload` propagates."""
    for kind in KINDS:
        with suppress(InvalidPayload):
            decoded(kind, payload)


@settings(max_examples=500)
@given(payload=st.binary() | st.text().map(str.encode))
def test_any_bytes_are_refused_in_order(payload: bytes) -> None:
    decode_any(payload)


@st.composite
def spliced(draw: DrawFn) -> bytes:
    """A payload with bytes cut out, put in or repeated."""
    payload = bytearray(draw(st.sampled_from(KINDS).flatmap(payloads)).encode())
    for _ in range(draw(st.integers(1, 4))):
        at, length = draw(st.integers(0, len(payload))), draw(st.integers(0, 4))
        pieces = st.binary(max_size=4) | st.sampled_from(
            [b'"', b"{", b"}", b"[", b"]", b"\\", b"\\ud800", b"\\u0000"]
        )
        payload[at : at + length] = draw(pieces) * draw(st.sampled_from([1, 1, 2, 300]))
    return bytes(payload)


@settings(max_examples=500)
@given(payload=spliced())
def test_damaged_payloads_are_refused_in_order(payload: bytes) -> None:
    decode_any(payload)


LONG: Final = "1" * 5000
DECISION: Final = list(LEAST["decision"].items())
HARMFUL: Final = {
    "nested arrays": "[" * 100_000 + "]" * 100_000,
    "nested objects": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "unclosed": '{"a":' * 100_000,
    "nested in a field": '{"context":' + '{"a":[' * 5000 + "]}" * 5000 + "}",
    "nested in a response": object_text([*DECISION, ("response", json.dumps('{"action":' + "[" * 100_000))]),
    "a response that names no text": object_text(
        [*DECISION, ("response", json.dumps('{"side": "\\ud800"}'))]
    ),
    "a string without an end": '{"a":[' + "[]," * 300 + '"' + '\\"' * 500_000,
    "nothing but quotes": '"' * 1_000_000,
    "an exponent beyond decimals": object_text([*DECISION, ("cost_usd", "1e9999999999999999999")]),
    "an exponent below decimals": object_text([*DECISION, ("tokens_used", "1e-9999999999999999999")]),
    "an integer beyond Python's": object_text([*DECISION, ("tokens_used", LONG)]),
    "such an integer beside U+0000": object_text(
        [*DECISION, ("context", f'{{"a": {LONG}, "b": "\\u0000"}}')]
    ),
    "such an integer beside a lone surrogate": object_text([*DECISION, ("x", f'[{LONG}, "\\ud800"]')]),
    "a long fraction": object_text([*DECISION, ("pnl", "0." + "1" * 1_000_000)]),
    "a long decimal string": object_text([*DECISION, ("pnl", '"' + "1" * 1_000_000 + '"')]),
    "a byte order mark": "\ufeff{}",
}


@pytest.mark.parametrize("name", HARMFUL)
def test_harmful_payloads_are_decoded_or_refused_in_order(name: str) -> None:
    decode_any(HARMFUL[name].encode())


# The documents themselves.


def references(document: object) -> Iterator[str]:
    """Every `$ref` of a document."""
    if isinstance(document, dict):
        yield from (value for key, value in document.items() if key == "$ref")
    if isinstance(document, dict | list):
        for value in document.values() if isinstance(document, dict) else document:
            yield from references(value)


def resolve(document: Any, reference: str) -> Any:
    """What a `$ref` points at, in the document itself or in a schema beside it."""
    if not reference.startswith("#"):
        assert Path(reference).name == reference.removeprefix("./"), f"{reference} is not beside the document"
        return json.loads((SCHEMAS / reference).read_text("utf-8"))
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.mark.parametrize("kind", KINDS)
def test_schema_is_valid_and_complete(kind: str) -> None:
    document = json.loads((SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(document)
    assert {f"#/$defs/{name}" for name in document["$defs"]} == set(references(document))


def test_what_both_schemas_define_is_the_same() -> None:
    decision, outcome = (schema(kind)["$defs"] for kind in KINDS)
    assert outcome == {name: decision[name] for name in outcome}


@pytest.mark.parametrize("kind", KINDS)
def test_patterns_mean_the_same_to_every_engine(kind: str) -> None:
    """No lookaround, shorthand class or Unicode escape: engines lack them or differ about them."""
    patterns = re.findall(r'"pattern": (".*")', (SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    for pattern in map(json.loads, patterns):
        assert not re.search(r"\(\?[^:]|\\[^.nx]", pattern), pattern


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_the_schema_are_valid(kind: str) -> None:
    document = json.loads((SCHEMAS / f"{kind}.schema.json").read_text("utf-8"))
    rules = {**document["$defs"], **document["properties"]}
    used = {name: rule["examples"] for name, rule in rules.items() if "examples" in rule}
    field = {"time": "timestamp"}
    for name, examples in used.items():
        for example in examples:
            text = object_text(list((LEAST[kind] | {field.get(name, name): json.dumps(example)}).items()))
            assert schema_accepts(kind, text), example
            assert decoder_accepts(kind, text), example


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((SCHEMAS / "asyncapi.yaml").read_text("utf-8"))
    return document


def test_asyncapi_refers_to_what_exists(asyncapi: dict[str, Any]) -> None:
    assert asyncapi["asyncapi"] == "3.0.0"
    for reference in references(asyncapi):
        assert resolve(asyncapi, reference), reference


@pytest.mark.parametrize("kind", KINDS)
def test_asyncapi_leads_from_the_operation_to_the_schema(asyncapi: dict[str, Any], kind: str) -> None:
    operation = asyncapi["operations"][f"receive{kind.title()}"]
    channel = resolve(asyncapi, operation["channel"]["$ref"])
    [named] = operation["messages"]
    message = resolve(asyncapi, resolve(asyncapi, named["$ref"])["$ref"])
    assert operation["action"] == "receive"
    assert channel["address"] == SUBJECTS[kind]
    assert message["payload"]["schema"]["$ref"] == f"./{kind}.schema.json"
    assert "nats" in resolve(asyncapi, operation["bindings"]["$ref"])


@pytest.mark.parametrize("kind", KINDS)
def test_examples_of_asyncapi_are_valid(asyncapi: dict[str, Any], kind: str) -> None:
    message = asyncapi["components"]["messages"][kind]
    headers = Draft202012Validator(resolve(asyncapi, message["headers"]["$ref"]))
    assert message["examples"]
    for example in message["examples"]:
        text = json.dumps(example["payload"])
        assert schema_accepts(kind, text), example["name"]
        assert decoder_accepts(kind, text), example["name"]
        headers.validate(example.get("headers", {}))


def test_the_alert_of_asyncapi_follows_its_schema(asyncapi: dict[str, Any]) -> None:
    operation = asyncapi["operations"]["sendAlert"]
    assert resolve(asyncapi, operation["channel"]["$ref"])["address"] == AlertSettings().subject
    schema = json.loads((SCHEMAS / "alert.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    examples = asyncapi["components"]["messages"]["alert"]["examples"]
    for example in examples:
        Draft202012Validator(schema).validate(example["payload"])
    payload = examples[0]["payload"]
    score = Score("agent", payload["agent"], payload["successful"], payload["failed"])
    assert score.interval == pytest.approx((payload["lower"], payload["upper"]), abs=1e-5)
