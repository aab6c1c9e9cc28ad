"""The schemas of questions and answers as files: `make schemas` writes them, a test says when to."""

from __future__ import annotations

import functools
import json
from inspect import getdoc
from pathlib import Path
from typing import Any, Final

from jsonschema import Draft202012Validator
from referencing import Registry, Resource

from tracker_daemon.choices import ENDPOINTS
from tracker_daemon.queries import Filter, answer_schema, question_schema

FOLDER: Final = Path(__file__).parents[1] / "schemas"
FILTER: Final = "filter.schema.json"


def texts() -> dict[str, str]:
    """What each file has to hold; the filter, which most questions have, has one of its own."""
    questions = {name: question_schema(name, kind) for name, kind in ENDPOINTS.items()}
    [conditions, *_] = [
        _take_filter(questions[name]) for name, kind in ENDPOINTS.items() if issubclass(kind, Filter)
    ]
    schemas = (
        {FILTER: conditions}
        | {f"question.{name}.schema.json": schema for name, schema in questions.items()}
        | {f"answer.{name}.schema.json": answer_schema(name, kind) for name, kind in ENDPOINTS.items()}
    )
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


def _take_filter(question: dict[str, Any]) -> dict[str, Any]:
    """Put a reference in the place of the filter's fields, and return what it has to lead to."""
    [definition] = question["$defs"].values()
    fields = {name: definition["properties"].pop(name) for name in Filter.__struct_fields__}
    # `additionalProperties` would refuse what the other file alone knows.
    definition["unevaluatedProperties"] = definition.pop("additionalProperties")
    definition["allOf"] = [{"$ref": f"./{FILTER}"}]
    return {
        "$schema": question["$schema"],
        "title": "Conditions of a question",
        "description": getdoc(Filter),
        "type": "object",
        "properties": fields,
    }


@functools.cache
def validator(kind: str, name: str) -> Draft202012Validator:
    """A validator of the published schema of a `question` or an `answer`."""
    schema = _read(f"{kind}.{name}.schema.json")
    beside: Registry[Any] = Registry(retrieve=lambda uri: Resource.from_contents(_read(uri)))
    return Draft202012Validator(schema, registry=beside)


def _read(name: str) -> Any:
    schema = json.loads((FOLDER / name).read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return schema


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, "utf-8")
