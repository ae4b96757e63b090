"""ROUGE-L of every caption against the captions of every image: exact relevances for NDCG.

Longest common subsequences are computed bit-parallel (Hyyrö 2004): the words of a caption are bits of one integer, and
one word of a reference takes three operations on that integer. The operations run on the integers of all references at
once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BETA = 1.2  # weight of recall, as in COCO's caption evaluation
WORD_BITS = 64
BLOCK_ROWS = 256  # candidates per block
BIT_COUNTS = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def rouge_l(
    candidates: Sequence[str], references: Sequence[str], image_index: Sequence[int], images: int
) -> Iterator[np.ndarray]:
    """Compute the relevance of each image for each candidate caption.

    Words are `text.lower().split(" ")`, as in the code of the TERN authors. Over the references r of an image,
    P = max LCS / |c| and R = max LCS / |r|, each maximum by itself, and F = (1 + b^2) P R / (R + b^2 P) with b = 1.2; F
    is 0 if P or R is 0. The relevance of the image of a caption is 1, that of an image without references is 0.

    Args:
        candidates: Captions that are used as queries.
        references: Captions of the images of the gallery, in any order.
        image_index: Column of the image of each reference, 0 to images - 1.
        images: Number of images.

    Yields:
        Blocks of rows (b, images) float32, in the order of the candidates.

    Raises:
        ValueError: The number of references and columns differs, or a column is out of range.
    """
    columns_of_references = np.asarray(image_index, np.int64)
    in_range = not len(columns_of_references) or (
        0 <= columns_of_references.min() <= columns_of_references.max() < images
    )
    if len(columns_of_references) != len(references) or not in_range:
        raise ValueError(
            f"There are {len(references)} references and {len(columns_of_references)} columns for {images} images. "
            "Pass one column per reference, from 0 to images - 1."
        )
    order = np.argsort(columns_of_references, kind="stable")
    words = [split_words(references[index]) for index in order]
    columns, starts = np.unique(columns_of_references[order], return_index=True)
    tokenized = TokenizedReferences(words)
    lengths = np.array([len(text) for text in words], np.float64)
    for start in range(0, len(candidates), BLOCK_ROWS):
        part = candidates[start : start + BLOCK_ROWS]
        block = np.zeros((len(part), images), np.float32)
        for row, text in enumerate(part if len(words) else []):
            candidate = split_words(text)
            common = tokenized.lcs(candidate)
            precision = np.maximum.reduceat(common, starts) / len(candidate)
            recall = np.maximum.reduceat(common / lengths, starts)
            block[row, columns] = f_measure(precision, recall)
        yield block


def split_words(text: str) -> list[str]:
    """Split a text into lower-case words at single spaces; punctuation stays.

    Two consecutive spaces enclose an empty word.
    """
    return text.lower().split(" ")


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """Compute the F-measure of two arrays with `BETA`; 0 where one of them is 0."""
    denominator = np.where(recall > 0, recall + BETA**2 * precision, 1)
    return (1 + BETA**2) * precision * recall / denominator


class TokenizedReferences:
    """Tokenized texts, arranged for one pass over all of them.

    Texts are sorted by descending length and stored by position: at position t, only the first `active[t]` texts have a
    word.

    Args:
        texts: Words of each text.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = texts
        self.number: dict[str, int] = {}
        rows = [[self.number.setdefault(word, len(self.number)) for word in text] for text in texts]
        lengths = np.array([len(row) for row in rows])
        self.order = np.argsort(-lengths, kind="stable")
        longest = int(lengths.max(initial=0))
        self.active = [int((lengths > t).sum()) for t in range(longest)]
        self.at = [np.array([rows[text][t] for text in self.order[:n]], np.intp) for t, n in enumerate(self.active)]

    def lcs(self, words: Sequence[str]) -> np.ndarray:
        """Compute the length of the longest common subsequence of `words` with each text: (n,) int64."""
        if len(words) > WORD_BITS:  # rare: Python's integers have any length
            return np.array([lcs_length(words, text) for text in self.texts], np.int64)
        bits = np.zeros(len(self.number), np.uint64)  # positions of each word of the vocabulary in `words`
        for position, word in enumerate(words):
            if word in self.number:
                bits[self.number[word]] |= np.uint64(1 << position)
        state = np.full(len(self.texts), np.iinfo(np.uint64).max)
        for n, numbers in zip(self.active, self.at, strict=True):
            current = state[:n]
            match = current & bits[numbers]
            state[:n] = (current + match) | (current - match)
        zeros = ~state & np.uint64((1 << len(words)) - 1)
        lengths = np.empty(len(state), np.int64)
        lengths[self.order] = BIT_COUNTS[zeros.view(np.uint8)].reshape(-1, 8).sum(axis=1)
        return lengths


def lcs_length(first: Sequence[str], second: Sequence[str]) -> int:
    """Compute the length of the longest common subsequence of two texts, with one integer of any length."""
    bits: dict[str, int] = {}
    for position, word in enumerate(first):
        bits[word] = bits.get(word, 0) | 1 << position
    all_bits = state = (1 << len(first)) - 1
    for word in second:
        match = state & bits.get(word, 0)
        state = (state + match) | (state - match)
    return (~state & all_bits).bit_count()
