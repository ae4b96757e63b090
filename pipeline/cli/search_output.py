"""Print the answers of `tern search`: as a table for people, as JSON, or as paths for other programs."""

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from pipeline.cli.output import echo

if TYPE_CHECKING:
    from data.io import ColumnValue
    from pipeline.pages.preview import TerminalPreview
    from pipeline.search.hits import Answer, Hit, WordMatch

Format = Literal["text", "json", "paths"]


@dataclass(frozen=True)
class SearchOutput:
    """How answers are printed."""

    format: Format
    end: str
    """Character after each path."""
    is_many: bool
    """Whether there may be several queries, so that each answer has to name its own."""
    offset: int
    """Number of best hits that are left out."""
    no_hits: str
    """What to print on standard error where a query has no hits."""
    gallery: Path | None
    """Page or picture to write too."""
    shows_words: bool = False
    """Whether a table has the words below each hit."""
    columns: tuple[str, ...] = ()
    """Columns of the user's own that a table has below each hit."""
    preview: "TerminalPreview | None" = None
    """Draws a thumbnail below each hit of a table; None draws none."""

    @property
    def shows_regions(self) -> bool:
        """Whether the words and regions of the hits are part of the output."""
        return self.format == "json" or self.gallery is not None or self.shows_words or self.preview is not None

    def print_answer(self, number: int, name: str, answer: "Answer") -> None:
        """Print the answer of one query on standard output, and what a person should know of it on standard error.

        Args:
            number: Number of the query, from 1.
            name: Description of the query.
            answer: Its hits and its note.

        Raises:
            ValueError: The hits have no paths; or one has a line break, and paths are separated by line breaks.
        """
        prefix = f"query {number}: " if self.is_many else ""
        if answer.note:
            echo(prefix + answer.note, color="yellow", err=True)
        if not answer.hits and not answer.weak:
            echo(prefix + self.no_hits, err=True)
        if self.format == "json":
            first_weak = self.offset + len(answer.hits) + 1
            hits = [{"rank": rank, **asdict(hit)} for rank, hit in enumerate(answer.hits, self.offset + 1)]
            weak = [{"rank": rank, **asdict(hit)} for rank, hit in enumerate(answer.weak, first_weak)]
            self._print_json(number, name, **{**asdict(answer), "hits": hits, "weak": weak})
        elif self.format == "paths":
            self._print_paths(answer.hits)
        else:
            self._print_table(number, name, answer)
        if self.gallery is not None:
            from pipeline.pages.gallery import write_gallery

            echo(f"gallery  {write_gallery(self.gallery, name, answer.hits, answer.weak)}")

    def print_problem(self, number: int, name: str, problem: str) -> None:
        """Print why one of several queries has no answer."""
        echo(f"error: query {number}: {problem}", err=True, color="red")
        if self.format == "json":
            self._print_json(number, name, error=problem)

    def _print_json(self, number: int, query: str, **fields: object) -> None:
        # ASCII, so that no locale and no terminal changes a character of it.
        typer.echo(json.dumps({"number": number, "query": query, **fields}, default=os.fspath, allow_nan=False))

    def _print_paths(self, hits: Sequence["Hit"]) -> None:
        for path in dict.fromkeys(hit.path for hit in hits):  # several captions may have one image
            if not path.name:
                raise ValueError("The index has no paths of its images. Pass --json, which has their ids.")
            content = os.fsencode(path)
            if self.end == "\n" and (b"\n" in content or b"\r" in content):
                raise ValueError(f"The path {path} has a line break. Pass -0, and read paths that end in a null byte.")
            if self.end == "\n" and sys.stdout.isatty():
                echo(str(path))
            else:
                typer.echo(content + self.end.encode(), nl=False)

    def _print_table(self, number: int, name: str, answer: "Answer") -> None:
        if self.is_many:
            echo(f"query {number}  {name}")
        if self.shows_words and answer.hits and not any(hit.words for hit in (*answer.hits, *answer.weak)):
            echo(
                "Only hits of one text query among images have words, and only if the model has row vectors.", err=True
            )
        for rank, hit in enumerate((*answer.hits, *answer.weak), self.offset + 1):
            caption = hit.captions[0] if hit.captions else ""
            chance = "" if hit.probability is None else f"{hit.probability:4.0%}  "
            weak = "weak  " if rank > self.offset + len(answer.hits) else ""
            echo(f"{rank:>3}  {hit.score:.3f}  {hit.id}  {chance}{weak}{caption}")
            if values := [
                f"{name} {_describe_value(hit.columns[name])}" for name in self.columns if name in hit.columns
            ]:
                echo("     " + "  ".join(values))
            if self.shows_words and hit.words:
                echo("     " + "  ".join(map(_describe_word, hit.words)))
            if self.preview is not None:
                self.preview.print_thumbnail(hit)


def _describe_value(value: "ColumnValue") -> str:
    return ", ".join(value) if isinstance(value, list) else str(value)


def _describe_word(match: "WordMatch") -> str:
    """Describe a word, such as "dogs 41 % (dog 0.83, box 10,20,110,90)"."""
    from pipeline.search.hits import WHOLE_IMAGE  # lazy: the package imports heavy libraries

    where = [f"{match.label} {match.cosine:.2f}".strip()]
    if match.box is not None and match.label != WHOLE_IMAGE:
        where.append("box " + ",".join(f"{value:.0f}" for value in match.box))
    return f"{match.word} {100 * match.share:.0f} % ({', '.join(where)})"


def check_preview(is_for_programs: bool) -> None:
    """Check that thumbnails can be drawn below the hits, before a model is loaded.

    Args:
        is_for_programs: Whether the output is JSON or paths.

    Raises:
        typer.BadParameter: The output is for programs, or there is no terminal.
    """
    if is_for_programs:
        raise typer.BadParameter("--preview draws in the table of hits. Leave out --json and --paths, or --preview.")
    if not all(stream is not None and stream.isatty() for stream in (sys.__stdin__, sys.__stdout__)):
        raise typer.BadParameter(
            "--preview asks the terminal what it can draw, but standard input or output is not a terminal. Leave it "
            "out, or write a contact sheet with `--gallery hits.png`."
        )


def open_preview() -> "TerminalPreview":
    """Ask the terminal what it can draw; see `open_terminal_preview`."""
    from pipeline.pages.preview import open_terminal_preview

    return open_terminal_preview()
