"""The published schemas of questions and answers: what the types say, and what the parser takes."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from tests.schemas import FOLDER, texts, validator
from tracker_daemon.choices import ENDPOINTS
from tracker_daemon.config import QuerySettings
from tracker_daemon.errors import InvalidQuestion
from tracker_daemon.queries import parse

ID = "0195f6a2-7c1e-7d3a-9b54-2f6f1f0a9c11"


def test_the_files_are_what_the_types_say() -> None:
    """If not, `make schemas` makes them so."""
    patterns = ("filter.schema.json", "question.*.schema.json", "answer.*.schema.json")
    found = {path.name: path.read_text("utf-8") for pattern in patterns for path in FOLDER.glob(pattern)}
    assert found == texts()


def parses(name: str, text: str) -> bool:
    try:
        parse(text.encode(), ENDPOINTS[name])
    except InvalidQuestion:
        return False
    return True


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("stats", "{}"),
        ("stats", '{"group_by": ["model", "day"], "maturity_seconds": 3600.5, "agent_name": null}'),
        ("stats", '{"group_by": ["prompt"]}'),
        ("stats", '{"group_by": "model"}'),
        ("stats", '{"maturity_seconds": -1}'),
        ("stats", '{"limit": 1}'),
        (
            "recent",
            '{"limit": 1000, "cursor": null, "min_pnl": "2.5", "max_pnl": 2.5, "context": {"a": [1]}}',
        ),
        ("recent", '{"limit": 0}'),
        ("recent", '{"limit": 1001}'),
        ("recent", '{"limit": "5"}'),
        ("recent", '{"context": []}'),
        ("recent", '{"outcome": "success"}'),
        ("recent", '{"symbol": "BTC", "text": "rsi"}'),
        ("recent", '{"since": 5}'),
        ("recent", "[]"),
        ("successful", '{"outcome": "SUCCESS", "since": "2026-11-23T10:00:00Z"}'),
        ("failed", '{"min_latency_ms": 1.5}'),
        ("decision", f'{{"id": "{ID}", "as_of": "2026-11-23T10:00:00+01:00"}}'),
        ("search", '{"text": "rsi -\\"stop loss\\"", "limit": 5, "symbol": "BTC"}'),
        ("search", '{"limit": 5}'),
        ("search", '{"text": null}'),
        (
            "similar",
            '{"situation": {"rsi": 62, "macd": {"line": null}}, "weights": {"rsi": 2}, "symbol": "BTC"}',
        ),
        (
            "similar",
            '{"situation": {}, "max_distance": 0.5, "min_overlap": 1, "resolved": true}',
        ),
        ("similar", '{"situation": {}, "limit": 101}'),
        ("similar", '{"situation": {}, "weights": {"rsi": "2"}}'),
        ("similar", '{"situation": "up"}'),
        ("similar", "{}"),
        ("context", '{"situation": {"rsi": 62}, "symbol": "BTC", "token_budget": 1, "quoting": "all"}'),
        ("context", '{"situation": {}, "token_budget": 0}'),
        ("context", '{"situation": {}, "quoting": "some"}'),
        ("context", '{"agent_name": "risk"}'),
        ("prompts", '{"text": "rsi", "hybrid": true, "symbol": "BTC", "limit": 100}'),
        ("prompts", '{"embedding": [1, 0.5, -2e3], "embedding_model": "small"}'),
        ("prompts", '{"embedding": [1, "2"]}'),
        ("prompts", '{"text": "rsi", "hybrid": 1}'),
        ("prompts", '{"text": "rsi", "limit": 101}'),
        ("prompts", "{}"),
        ("assign", '{"experiment": "exits", "unit": "session-7"}'),
        ("assign", '{"experiment": "exits", "unit": ""}'),
        ("assign", '{"experiment": "exits"}'),
        ("select", '{"agent_name": "risk", "decision_type": "signal", "key": "BTC"}'),
        ("select", '{"agent_name": "risk", "decision_type": "signal", "key": "BTC", "candidates": ["a"]}'),
        ("select", '{"agent_name": "risk", "decision_type": "signal", "key": "BTC", "candidates": [7]}'),
        ("select", '{"agent_name": "risk", "key": 7}'),
        ("decision", "{}"),
        ("decision", '{"id": 7}'),
        ("decision", f'{{"id": "{ID}", "more": 1}}'),
    ],
)
def test_a_schema_takes_what_the_parser_takes(name: str, text: str) -> None:
    assert validator("question", name).is_valid(json.loads(text)) == parses(name, text)


@pytest.fixture(scope="module")
def asyncapi() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / "asyncapi.yaml").read_text("utf-8"))
    return document


def pointed(document: Any, reference: str) -> Any:
    """What a `$ref` within a document points at."""
    for step in reference.removeprefix("#/").split("/"):
        document = document[step]
    return document


@pytest.mark.parametrize("name", ENDPOINTS)
def test_asyncapi_has_each_question_with_its_answer(name: str, asyncapi: dict[str, Any]) -> None:
    operation = asyncapi["operations"][f"answer{name.title()}"]
    assert operation["action"] == "receive"
    channel = pointed(asyncapi, operation["channel"]["$ref"])
    assert channel["address"] == f"{QuerySettings().subject}.{name}"
    [asked] = operation["messages"]
    answered, refused = operation["reply"]["messages"]
    replies = pointed(asyncapi, operation["reply"]["channel"]["$ref"])
    assert replies["address"] is None
    for kind, message in (("question", asked), ("answer", answered)):
        payload = pointed(asyncapi, pointed(asyncapi, message["$ref"])["$ref"])["payload"]
        assert payload["schema"]["$ref"] == f"./{kind}.{name}.schema.json"
    headers = pointed(asyncapi, pointed(asyncapi, refused["$ref"])["$ref"])["headers"]
    assert set(headers["properties"]) == {"Nats-Service-Error", "Nats-Service-Error-Code"}


@pytest.mark.parametrize("name", ENDPOINTS)
def test_the_examples_of_asyncapi_are_questions(name: str, asyncapi: dict[str, Any]) -> None:
    [example] = asyncapi["components"]["messages"][f"{name}Question"]["examples"]
    validator("question", name).validate(example["payload"])
    assert parses(name, json.dumps(example["payload"]))
