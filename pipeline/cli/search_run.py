"""Run `tern search`: check what needs no model, and answer the queries in passes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import typer

from data.text import suggest_name
from pipeline.cli.search_output import SearchOutput
from pipeline.cli.search_queries import QueryOptions, describe_query

if TYPE_CHECKING:
    from data.config import ColumnType
    from pipeline.search import IndexSearcher, Query


@dataclass(frozen=True)
class HitOptions:
    """The options of `tern search` that select hits."""

    k: int
    offset: int
    where: str | None
    min_probability: float | None = None
    unique: bool = False

    def describe_no_hits(self) -> str:
        """Say why a query has no hits."""
        if self.where is not None:
            return "No row matches the filter." if not self.offset else "No more rows match the filter."
        return "There are no more hits." if self.offset else "The index is empty."


def check_search(
    options: QueryOptions, hits: HitOptions, types: "Mapping[str, ColumnType]", columns: Sequence[str] = ()
) -> None:
    """Check everything else that needs no model, before a model is loaded.

    Args:
        options: What is searched with.
        hits: Which hits are printed; their filter is checked.
        types: Types of the columns of the user's own in the version.
        columns: Columns to print.
    """
    for name in columns:
        if name not in types:
            raise ValueError(f"The index has no column {name!r}; {suggest_name(name, types, 'its columns are')}.")
    if hits.where is not None:
        from index.metadata import parse_filter  # imports pyarrow and numpy

        parse_filter(hits.where, types)
    options.check_files()


def run_search(searcher: "IndexSearcher", queries: Iterator["Query"], hits: HitOptions, output: SearchOutput) -> None:
    """Answer all queries and print the answers, up to `MAX_QUERIES` in one pass.

    Raises:
        ValueError: The only query is invalid.
        typer.Exit: One of several queries is invalid; the others are answered.
    """
    from pipeline.search.query import MAX_QUERIES, SearchRequest

    count, has_failed = 0, False
    while chunk := list(islice(queries, MAX_QUERIES)):
        shared = (hits.k, hits.offset, hits.where, hits.min_probability, output.shows_regions, hits.unique)
        requests = [SearchRequest(query, *shared) for query in chunk]
        for query, answer in zip(chunk, searcher.answer(requests), strict=True):
            count += 1
            if not isinstance(answer, ValueError):
                output.print_answer(count, describe_query(query), answer)
            elif output.is_many:
                output.print_problem(count, describe_query(query), str(answer))
                has_failed = True
            else:
                raise answer
    if has_failed:
        raise typer.Exit(1)
