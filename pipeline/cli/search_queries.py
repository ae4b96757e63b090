"""Options of `tern search` that make queries: checked before a model is loaded, then read as queries."""

import io
import re
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

import typer

if TYPE_CHECKING:
    import numpy as np

    from pipeline.search.query import Box, Query, QueryPart, Target

STDIN = "-"
TARGETS = {"images": "image", "captions": "caption"}
WEIGHT = re.compile(r"(.*\S)\^(\d{1,3}(?:\.\d{1,6})?)\s*", re.DOTALL)


@dataclass(frozen=True)
class QueryOptions:
    """The options of `tern search` that make queries."""

    text: str | None
    images: tuple[Path, ...]
    """Photos."""
    likes: tuple[str, ...]
    """Ids of images of the index."""
    box: str | None
    also: tuple[str, ...]
    without: tuple[str, ...]
    queries: str | None
    """File with one text per line; `STDIN` is standard input."""
    vector: Path | None
    target: str | None
    """A key of `TARGETS`; None: captions for photos alone, images for everything else."""

    def check(self) -> None:
        """Check the options together.

        Raises:
            typer.BadParameter: They contradict each other, or one has an invalid value.
        """
        if self.text is None and not (self.images or self.likes or self.queries or self.vector):
            raise typer.BadParameter("Pass a text query, --image, --like, --vector or --queries.")
        if self.queries is not None and (self.text is not None or self.vector is not None):
            other = "a text query" if self.text is not None else "--vector"
            raise typer.BadParameter(f"Pass {other} or --queries, not both.")
        if self.target is not None and self.target not in TARGETS:
            raise typer.BadParameter(f"--for is {self.target!r}. Pass images or captions.")
        if self.box is not None:
            parse_box(self.box)
            if len(self.images) + len(self.likes) != 1:
                raise typer.BadParameter("--box needs exactly one --image or --like, whose region it is.")

    def check_files(self) -> None:
        """Raise FileNotFoundError if a file of the options does not exist."""
        for photo in self.images:
            if not photo.is_file():
                raise FileNotFoundError(f"The photo {photo} does not exist. Pass an image file.")
        if self.vector is not None and not self.vector.is_file():
            raise FileNotFoundError(f"The file of vectors {self.vector} does not exist. Pass a .npy file.")
        if self.queries is not None and self.queries != STDIN and not Path(self.queries).exists():
            raise FileNotFoundError(f"The file of queries {self.queries} does not exist. Pass a text file, or - .")

    @property
    def searched(self) -> "Target":
        """What is searched."""
        is_photo_alone = not (self.text or self.likes or self.queries or self.vector or self.also or self.without)
        return "caption" if (self.target or ("captions" if is_photo_alone else "images")) == "captions" else "image"


def parse_box(text: str) -> "Box":
    """Parse the value of --box.

    Raises:
        typer.BadParameter: It is not four numbers.
    """
    try:
        x1, y1, x2, y2 = (float(value) for value in text.split(","))
    except ValueError:
        raise typer.BadParameter(f"--box is {text!r}. Pass X1,Y1,X2,Y2 in pixels, such as 20,10,180,150.") from None
    return x1, y1, x2, y2


def open_vectors(path: Path) -> "np.ndarray":
    """Map the file of --vector.

    Returns:
        (e,) or (n, e) numbers.

    Raises:
        FileNotFoundError: The file is missing.
        ValueError: It is not a .npy file of numbers with one or two dimensions.
    """
    from data.formats import map_npy

    vectors = map_npy(path)
    if vectors.ndim not in (1, 2) or not vectors.size or vectors.dtype.kind not in "fiu":
        raise ValueError(
            f"{path} has values {vectors.dtype} of shape {vectors.shape}. Pass one vector (e,), or a row per query "
            "(n, e), of numbers."
        )
    return vectors


def iter_queries(options: QueryOptions, vectors: "np.ndarray | None") -> Iterator["Query"]:
    """Yield the queries of the options: one per line of --queries, one per row of --vector, or a single one.

    Raises:
        ValueError: A line is not text.
    """
    from pipeline.search.query import Query, TextPart, VectorPart

    shared, target = _make_shared_parts(options), options.searched
    first = () if options.text is None else (TextPart(options.text),)
    if options.queries is not None:
        for text in _iter_texts(options.queries):
            yield Query((TextPart(text), *shared), target)
    elif vectors is not None:
        for vector in vectors if vectors.ndim == 2 else (vectors,):
            yield Query((*first, VectorPart(vector), *shared), target)
    else:
        yield Query((*first, *shared), target)


def describe_query(query: "Query") -> str:
    """Describe a query in one line, such as `a dog + in the snow - 0.5 people`."""
    from pipeline.search.query import ImagePart, PhotoPart, TextPart

    words = []
    for part in query.parts:
        match part:
            case TextPart(text):
                name = text
            case ImagePart(image_id, box):
                name = f"like {image_id}{_describe_box(box)}"
            case PhotoPart(photo, box):
                name = f"{photo.name if isinstance(photo, Path) else 'photo'}{_describe_box(box)}"
            case _:
                name = "vector"
        weight = "" if abs(part.weight) == 1 else f"{abs(part.weight):g} "
        words.append(f"{'+' if part.weight > 0 else '-'} {weight}{name}")
    return " ".join(words).removeprefix("+ ")


def _describe_box(box: "Box | None") -> str:
    return "" if box is None else f" [{','.join(f'{value:g}' for value in box)}]"


def _make_shared_parts(options: QueryOptions) -> tuple["QueryPart", ...]:
    """Make the parts that all queries have: photos, images of the index, and texts to add or avoid."""
    from pipeline.search.query import AVOIDED_BESIDE_IMAGE, AVOIDED_BESIDE_TEXT, ImagePart, PhotoPart, TextPart

    box = None if options.box is None else parse_box(options.box)
    has_text = options.text is not None or options.queries is not None
    avoided = AVOIDED_BESIDE_TEXT if has_text else AVOIDED_BESIDE_IMAGE
    return (
        *(PhotoPart(photo, box) for photo in options.images),
        *(ImagePart(image_id, box) for image_id in options.likes),
        *(TextPart(text, weight) for text, weight in (_split_weight(text, 1.0) for text in options.also)),
        *(TextPart(text, -weight) for text, weight in (_split_weight(text, avoided) for text in options.without)),
    )


def _split_weight(text: str, default: float) -> tuple[str, float]:
    """Split `TEXT^0.5` into text and weight."""
    match = WEIGHT.fullmatch(text)
    return (match[1], float(match[2])) if match else (text, default)


def _iter_texts(source: str) -> Iterator[str]:
    """Yield the lines of a file, or of standard input, without line breaks."""
    from data.text import MAX_LINE_CHARACTERS, iter_lines

    name = "standard input" if source == STDIN else source
    with nullcontext(_reopen_stdin()) if source == STDIN else open(source, encoding="utf-8-sig") as file:
        try:
            for number, line in enumerate(iter_lines(file), 1):
                if line is None:
                    limit = f"{MAX_LINE_CHARACTERS:,} characters or more"
                    raise ValueError(f"The line has {limit}, in {name}, line {number}. Pass one query per line.")
                yield line.rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise ValueError(f"{name} is not UTF-8 text ({error}). Save it as UTF-8.") from error


def _reopen_stdin() -> TextIO:
    """Return standard input as UTF-8, whatever the locale is."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(encoding="utf-8-sig", errors="strict")
    return sys.stdin
