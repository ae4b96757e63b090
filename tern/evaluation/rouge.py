"""ROUGE-L of every caption against the captions of every image: the relevances of NDCG. Exact, and quick.

Longest common subsequences are found bit-parallel (Hyyrö 2004): a caption's words are bits of one integer, and one word
of a reference costs three operations on that integer, here on those of all references at once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

BETA = 1.2  # recall weighs more, as in COCO's caption evaluation
BITS = 64
BLOCK_ROWS = 256  # candidates a block
ONES = np.array([bin(byte).count("1") for byte in range(256)], np.uint8)


def rouge_l(
    candidates: Sequence[str], references: Sequence[str], image_index: Sequence[int], images: int
) -> Iterator[np.ndarray]:
    """Relevance of each image for each candidate caption, in blocks of rows: (b, images) float32.

    Words are `text.lower().split(" ")`, as the authors of TERN have it. Over the references r of an image
    P = max LCS / |c| and R = max LCS / |r|, the two maxima by themselves; F = (1 + b^2) P R / (R + b^2 P) with b = 1.2,
    0 where P or R is 0. An image's own caption scores 1; an image without references 0.

    Args:
        candidates: captions asked with
        references: captions of the gallery's images, in any order
        owners: for each reference the column of its image, 0 to images - 1
    """
    own = np.asarray(image_index, np.int64)
    if len(own) != len(references) or (len(own) and not 0 <= own.min() <= own.max() < images):
        raise ValueError(f"{len(references)} references, {len(own)} owners for {images} images; give a column each")
    order = np.argsort(own, kind="stable")
    words = [split_words(references[place]) for place in order]
    columns, starts = np.unique(own[order], return_index=True)
    against = TokenizedReferences(words)
    lengths = np.array([len(one) for one in words], np.float64)
    for start in range(0, len(candidates), BLOCK_ROWS):
        part = candidates[start : start + BLOCK_ROWS]
        found = np.zeros((len(part), images), np.float32)
        for row, text in enumerate(part if len(words) else []):
            asked = split_words(text)
            common = against.lcs(asked)
            precision = np.maximum.reduceat(common, starts) / len(asked)
            recall = np.maximum.reduceat(common / lengths, starts)
            found[row, columns] = f_measure(precision, recall)
        yield found


def split_words(text: str) -> list[str]:
    """Lower-case words between single spaces; punctuation stays, two spaces in a row hold an empty word."""
    return text.lower().split(" ")


def f_measure(precision: np.ndarray, recall: np.ndarray) -> np.ndarray:
    """F with BETA of two arrays; 0 where one of them is 0"""
    below = np.where(recall > 0, recall + BETA**2 * precision, 1)
    return (1 + BETA**2) * precision * recall / below


class TokenizedReferences:
    """Tokenised texts, laid out for one pass over all of them.

    Position-first and by falling length: at position t only the first `active[t]` texts still have a word.
    """

    def __init__(self, texts: Sequence[Sequence[str]]) -> None:
        self.texts = texts
        self.number: dict[str, int] = {}
        rows = [[self.number.setdefault(word, len(self.number)) for word in text] for text in texts]
        lengths = np.array([len(row) for row in rows])
        self.order = np.argsort(-lengths, kind="stable")
        longest = int(lengths.max(initial=0))
        self.active = [int((lengths > t).sum()) for t in range(longest)]
        self.at = [np.array([rows[place][t] for place in self.order[:n]], np.intp) for t, n in enumerate(self.active)]

    def lcs(self, words: Sequence[str]) -> np.ndarray:
        """Length of the longest common subsequence of `words` with each text: (n,) int64"""
        if len(words) > BITS:  # rare: one word of bits is not enough, and Python's integers have any length
            return np.array([lcs_length(words, text) for text in self.texts], np.int64)
        bits = np.zeros(len(self.number), np.uint64)  # where each word of the vocabulary stands in `words`
        for place, word in enumerate(words):
            if word in self.number:
                bits[self.number[word]] |= np.uint64(1 << place)
        state = np.full(len(self.texts), np.iinfo(np.uint64).max)
        for n, numbers in zip(self.active, self.at, strict=True):
            now = state[:n]
            match = now & bits[numbers]
            state[:n] = (now + match) | (now - match)
        zeros = ~state & np.uint64((1 << len(words)) - 1)
        found = np.empty(len(state), np.int64)
        found[self.order] = ONES[zeros.view(np.uint8)].reshape(-1, 8).sum(axis=1)
        return found


def lcs_length(one: Sequence[str], other: Sequence[str]) -> int:
    """The same with one integer of any length."""
    bits: dict[str, int] = {}
    for place, word in enumerate(one):
        bits[word] = bits.get(word, 0) | 1 << place
    whole = state = (1 << len(one)) - 1
    for word in other:
        match = state & bits.get(word, 0)
        state = (state + match) | (state - match)
    return (~state & whole).bit_count()
