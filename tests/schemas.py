"""The schemas of questions and answers as files: `make schemas` writes them, a test says when to."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Final

from jsonschema import Draft202012Validator

from tracker_daemon.queries import QUESTIONS, answer_schema, question_schema

FOLDER: Final = Path(__file__).parents[1] / "schemas"


def texts() -> dict[str, str]:
    """What each file has to hold."""
    schemas = {f"question.{name}.schema.json": question_schema(name) for name in QUESTIONS} | {
        f"answer.{name}.schema.json": answer_schema(name) for name in QUESTIONS
    }
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in schemas.items()}


@functools.cache
def validator(kind: str, name: str) -> Draft202012Validator:
    """A validator of the published schema of a `question` or an `answer`."""
    schema = json.loads((FOLDER / f"{kind}.{name}.schema.json").read_text("utf-8"))
    Draft202012Validator.check_schema(schema)
    return Draft202012Validator(schema)


if __name__ == "__main__":
    for name, text in texts().items():
        (FOLDER / name).write_text(text, "utf-8")
