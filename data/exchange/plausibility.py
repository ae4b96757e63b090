"""Look for values that a file cannot mean: boxes as fractions, features of another number type, exchanged sides.

Nothing is rejected: every message is a warning, with the first record and the number of the others.
"""

from collections.abc import Iterator, Mapping

import numpy as np

MIN_WORDS = 8  # numbers from which a number type is guessed
MAX_WORDS = 1 << 16  # numbers that are looked at
NULLS = ("none", "nan", "null")
FLOAT32_FORMATS = ("lxmert-tsv", "butd-tsv")  # bytes without a number type, which the reader takes for float32


class Plausibility:
    """Warnings about the records of an import, or of a file of regions."""

    def __init__(self) -> None:
        self._found: dict[str, tuple[str, int]] = {}

    def check(self, name: str, location: str, row: Mapping[str, np.ndarray], format: str) -> list[str]:
        """Look at the id and the fields of one image.

        Args:
            name: Id of the image in the file.
            location: File and line or key.
            row: All fields of a region store, as in the file.
            format: Name of the format.

        Returns:
            The problems that no earlier record had.
        """
        problems = [f"the id is {name!r}, which programs write for a missing one"] if name.lower() in NULLS else []
        problems += [*_find_feature_problems(row["features"], format), *_find_box_problems(row["boxes"], row["size"])]
        if any(_is_outside(row[name], 0, 1) for name in ("scores", "attr_scores")):
            problems.append("the scores are not between 0 and 1")
        new_problems = [problem for problem in problems if problem not in self._found]
        for problem in problems:
            first, count = self._found.get(problem, (location, 0))
            self._found[problem] = first, count + 1
        return new_problems

    def warnings(self) -> tuple[str, ...]:
        """Return one line per kind of problem."""
        return tuple(
            f"{first}{f' and {count - 1:,} more' if count > 1 else ''}: {problem}"
            for problem, (first, count) in self._found.items()
        )


def _is_outside(values: np.ndarray, low: float, high: float) -> bool:
    return bool(values.size) and not (low <= values.min() and values.max() <= high)


def _find_feature_problems(features: np.ndarray, format: str) -> Iterator[str]:
    if not features.any():
        yield "all features are 0"
    if features.dtype.kind != "f":
        yield f"the features are {features.dtype}; they are stored as these whole numbers, without a scale"
    if format in FLOAT32_FORMATS:
        dtype = guess_number_type(features)
        if dtype:
            yield (
                f"the features do not look like float32, which the format has, but like {dtype}. Write the column "
                "`features` as float32, in Python with array.astype('<f4')"
            )
        elif features.shape[1] == 4096:
            yield "the features have dimension 4,096, twice the usual 2,048: the column may have another number type"


def guess_number_type(values: np.ndarray) -> str:
    """Guess the number type of numbers whose bytes were taken for float32; "" for float32.

    The lower half of a float64 is 0 or random, so that every second number is 0 or spread over all powers of ten. In a
    float32 the lower 16 bits are 0 or random; in two float16 they are alike the upper ones.
    """
    words = np.ascontiguousarray(values, "<f4").view("<u4").ravel()[:MAX_WORDS]
    words = words[: len(words) // 2 * 2]
    if len(words) < MIN_WORDS or not words.any():
        return ""
    low, high = words[0::2], words[1::2]
    is_rounded = not (low & 0x1FFFFFFF).any() and bool((high & 0x1FFFFFFF).any())  # was float32 before
    if is_rounded or (_share_extreme(low) > 0.3 and _share_extreme(high) < 0.05):
        return "float64"
    if not (words & 0x1FFF).any():  # float16 or bfloat16 values, stored as float32
        return ""
    halves = words.view("<u2")
    if _are_alike(halves[0::2], halves[1::2]):
        return "float16"
    return "integers or numbers in big-endian order" if _share_extreme(words) > 0.5 else ""


def _share_extreme(words: np.ndarray) -> float:
    """Return the share of float32 numbers that are above 1e15, below 1e-15 (but not 0), or not finite."""
    exponents = (words >> 23) & 0xFF
    return float(((np.abs(exponents.astype(int) - 127) > 50) & ((words & 0x7FFFFFFF) != 0)).mean())


def _are_alike(low: np.ndarray, high: np.ndarray) -> bool:
    """Return whether two sets of float16 bits are of one distribution: their signs, zeros and exponents."""
    exponents = [((bits >> 10) & 31).astype(float) for bits in (low, high)]
    if max(values.max() for values in exponents) == 31:  # not finite
        return False
    measures = [
        (10 * (bits >> 15).mean(), 10 * ((bits & 0x7FFF) == 0).mean(), values.mean() / 1.5, values.std() / 1.5)
        for bits, values in zip((low, high), exponents, strict=True)
    ]
    return all(abs(one - other) < 1 for one, other in zip(*measures, strict=True))


def _find_box_problems(boxes: np.ndarray, size: np.ndarray) -> Iterator[str]:
    """Find problems of (r, 4) boxes x1 y1 x2 y2 in pixels of an image of `size` width, height."""
    if (boxes[:, 2:] < boxes[:, :2]).any():
        yield "boxes end before they begin: they may be x, y, width, height; the format has x1, y1, x2, y2"
    elif size.min() > 2 and boxes.any() and not _is_outside(boxes, 0, 1):
        yield "boxes lie between 0 and 1: they may be fractions of the image; the format has pixels"
    elif _is_outside(boxes[:, 0::2], *_widen(size[0])) or _is_outside(boxes[:, 1::2], *_widen(size[1])):
        is_exchanged = not _is_outside(boxes[:, 0::2], *_widen(size[1])) and not _is_outside(
            boxes[:, 1::2], *_widen(size[0])
        )
        yield f"boxes leave the image{'; they fit if width and height are exchanged' if is_exchanged else ''}"


def _widen(side: int) -> tuple[float, float]:
    """Return the range of coordinates on a side of an image, with a tolerance for rounding."""
    margin = 2 + 0.02 * side
    return -margin, side + margin
