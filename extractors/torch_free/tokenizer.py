"""Token ids of texts, without transformers: the rules of a tokenizer are run by the library `tokenizers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import tokenizers


class Tokenizer:
    """Token ids as `extractors.text.TextExtractor` computes them.

    Args:
        rules: JSON of the tokenizer, as a file tokenizer.json has it.
        max_tokens: Maximum number of tokens of a text, with [CLS] and [SEP]; the rest is cut off.

    Raises:
        ValueError: The rules are not those of a tokenizer.
    """

    def __init__(self, rules: str, max_tokens: int) -> None:
        try:
            self._tokenizer = tokenizers.Tokenizer.from_str(rules)
        except Exception as error:  # the library raises `Exception` itself
            raise ValueError(f"The rules of the tokenizer cannot be read: {error}. Restore tokenizer.json.") from error
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_tokens)
        self._tokenizer.encode_special_tokens = True  # the name of a special token, such as "[SEP]", is plain text

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text, from [CLS] to [SEP]."""
        encoded = self._tokenizer.encode_batch_fast([join_surrogates(text) for text in texts])
        return [item.ids for item in encoded]


def join_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace single surrogates by U+FFFD; tokenizers accept neither."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def hash_tokenizer(rules: str) -> str:
    """Return the SHA-256 of the rules of a tokenizer; truncation and padding, which a caller sets, do not count."""
    parsed = json.loads(rules) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(parsed, sort_keys=True).encode()).hexdigest()
