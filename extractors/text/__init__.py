"""Captions become rows of token features of a BERT-like model; independent of stores, datasets or plans."""

from extractors.text.extractor import TextEncoder, TextExtractor

__all__ = [
    "TextEncoder",
    "TextExtractor",
]
