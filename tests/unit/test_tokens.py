"""The estimate of tokens, compared with a tokenizer that parts all digits, and so makes many of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tokenizers
import wordllama

from tracker_daemon.queries import estimate_tokens

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def llama() -> Any:
    """Return the tokenizer of Llama 2, which WordLlama brings along."""
    [file] = Path(wordllama.__file__).parent.glob("tokenizers/*.json")
    loaded = tokenizers.Tokenizer.from_file(str(file))
    loaded.no_truncation()
    return loaded


@pytest.mark.parametrize("file", ["README.md", "CONTRIBUTING.md", "deploy/OPERATING.md", "tests/record.py"])
def test_it_errs_on_the_large_side_and_not_by_much(file: str, llama: Any) -> None:
    text = (ROOT / file).read_text("utf-8")
    for start in range(0, len(text), 4_000):
        part = text[start : start + 4_000]
        count = len(llama.encode(part, add_special_tokens=False).ids)
        assert count * 0.95 <= estimate_tokens(part) <= count * 1.7


@pytest.mark.parametrize(
    ("text", "tokens"),
    [("", 0), ("a" * 35, 10), ("2026-10-30", 10), ("\u00fc\u4e2d", 3), ("\U0001f680" * 3, 12), ("\n\n", 2)],
)
def test_what_counts_how_much(text: str, tokens: int) -> None:
    assert estimate_tokens(text) == tokens
