"""What questions and answers look like as JSON, in the words of JSON Schema."""

from __future__ import annotations

from inspect import cleandoc
from types import UnionType
from typing import TYPE_CHECKING, Any, Final, get_args, get_type_hints

import msgspec

if TYPE_CHECKING:
    from msgspec import Struct

_DIALECT: Final = "https://json-schema.org/draft/2020-12/schema"
_DECIMAL: Final = {"type": "string", "format": "decimal"}


def question_schema(name: str, question: type[Struct]) -> dict[str, Any]:
    """The JSON Schema of the question of this name; a decimal may be a number there, too."""
    return _schema(f"The question {name}", question, {**_DECIMAL, "type": ["number", "string"]})


def answer_schema(name: str, question: Any) -> dict[str, Any]:
    """The JSON Schema of what answers the question of this name, by its method `answer`."""
    kind = get_type_hints(question.answer, localns={"Connection": Any})["return"]
    if isinstance(kind, UnionType):  # with None, of which an error is made
        kind = get_args(kind)[0]
    return _schema(f"The answer to {name}", kind, _DECIMAL)


def _schema(title: str, kind: Any, decimal: dict[str, Any]) -> dict[str, Any]:
    return {"$schema": _DIALECT, "title": title, **_replaced(msgspec.json.schema(kind), decimal)}


def _replaced(part: Any, decimal: dict[str, Any]) -> Any:
    if part == _DECIMAL:
        return decimal
    if isinstance(part, str):
        return cleandoc(part)
    if isinstance(part, dict):
        return {key: _replaced(value, decimal) for key, value in part.items()}
    return [_replaced(value, decimal) for value in part] if isinstance(part, list) else part
