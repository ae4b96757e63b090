"""Captions become rows of token features of a BERT-like model; independent of stores, datasets or plans."""

from extractors.text.extractor import TextEncoder, TextExtractor
from extractors.text.models import MEAN_LAST_4

__all__ = [
    "MEAN_LAST_4",
    "TextEncoder",
    "TextExtractor",
]
