"""How many tokens a text takes, where nobody brings the tokenizer of the model."""

from __future__ import annotations

from math import ceil
from typing import Final

_LETTERS: Final = b" abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
_BEYOND_ASCII: Final = bytes(range(0x80, 0x100))
_FIRST_OF_FOUR: Final = bytes(range(0xF0, 0xF8))


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text, rather too many than too few.

    English letters and spaces count 1 for each 3.5, as Anthropic's documentation has it (OpenAI's says 4);
    every digit, sign and line break 1, as for tokenizers that part all digits (Llama 2, Gemma); of other
    scripts each byte of UTF-8 1/2, and of what takes four bytes, as emoji do, each byte 1.
    """
    data = text.encode("utf-8", "surrogatepass")
    signs = data.translate(None, _LETTERS)
    ascii_signs = signs.translate(None, _BEYOND_ASCII)
    fours = len(data) - len(data.translate(None, _FIRST_OF_FOUR))
    letters = len(data) - len(signs)
    return ceil(letters / 3.5 + len(ascii_signs) + (len(signs) - len(ascii_signs)) / 2 + 2 * fours)
