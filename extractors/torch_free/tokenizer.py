"""Token ids of texts, without transformers: the rules of a tokenizer are run by the library `tokenizers`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass

import tokenizers


@dataclass(frozen=True)
class Word:
    """A word of a text, with the tokens that it consists of."""

    text: str
    start: int
    """Number of its first character in the text."""
    end: int
    """One past the number of its last character."""
    tokens: tuple[int, ...]
    """Numbers of its tokens; [CLS] is 0."""


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

    def find_words(self, text: str) -> list[Word]:
        """Find the words of a text in its tokens; [CLS], [SEP] and punctuation belong to no word."""
        text = join_surrogates(text)
        encoded = self._tokenizer.encode(text)
        tokens_by_word: dict[int, list[int]] = {}
        for token, word_id in enumerate(encoded.word_ids):
            if word_id is not None:
                tokens_by_word.setdefault(word_id, []).append(token)
        words = []
        for tokens in tokens_by_word.values():
            start, end = encoded.offsets[tokens[0]][0], encoded.offsets[tokens[-1]][1]
            part = text[start:end]
            start += len(part) - len(part.lstrip())  # tokens of a byte-level tokenizer contain the space before a word
            if any(character.isalnum() for character in part):
                words.append(Word(part.strip(), start, start + len(part.strip()), tuple(tokens)))
        return words


def join_surrogates(text: str) -> str:
    """Join surrogate pairs, and replace single surrogates by U+FFFD; tokenizers accept neither."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def hash_tokenizer(rules: str) -> str:
    """Return the SHA-256 of the rules of a tokenizer; truncation and padding, which a caller sets, do not count."""
    parsed = json.loads(rules) | {"truncation": None, "padding": None}
    return hashlib.sha256(json.dumps(parsed, sort_keys=True).encode()).hexdigest()
