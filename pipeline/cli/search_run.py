"""Run `tern search`: check what needs no model, open the index, and answer the queries in passes."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

import typer

from pipeline.cli.options import resolve_version_option
from pipeline.cli.search_output import SearchOutput
from pipeline.cli.search_queries import QueryOptions, describe_query

if TYPE_CHECKING:
    from pipeline.plans.plan import Plan
    from pipeline.search import Query, Searcher


@dataclass(frozen=True)
class HitOptions:
    """The options of `tern search` that select hits."""

    k: int
    offset: int
    where: str | None
    min_probability: float | None = None

    def describe_no_hits(self) -> str:
        """Say why a query has no hits."""
        if self.where is not None:
            return "No row matches the filter." if not self.offset else "No more rows match the filter."
        return "There are no more hits." if self.offset else "The index is empty."


def check_search(plan: "Plan", options: QueryOptions, hits: HitOptions, version: str) -> int | None:
    """Check everything that needs no model, before a model is loaded; return the number of the version."""
    from index.versions import read_version_manifest
    from pipeline.workspace import Workspace, check_has_captions, check_published

    workspace = Workspace(plan.workspace)
    number = resolve_version_option(workspace.index, version)
    if number is None:
        check_published(workspace)
    manifest = read_version_manifest(workspace.index, number)
    if options.searched == "caption":
        check_has_captions(manifest)
    if hits.where is not None:
        from index.metadata import parse_filter  # imports pyarrow and numpy

        parse_filter(hits.where)
    options.check_files()
    return number


def run_search(searcher: "Searcher", queries: Iterator["Query"], hits: HitOptions, output: SearchOutput) -> None:
    """Answer all queries and print the answers, up to `MAX_QUERIES` in one pass.

    Raises:
        ValueError: The only query is invalid.
        typer.Exit: One of several queries is invalid; the others are answered.
    """
    from pipeline.search.query import MAX_QUERIES, SearchRequest

    count, has_failed = 0, False
    while chunk := list(islice(queries, MAX_QUERIES)):
        requests = [SearchRequest(query, hits.k, hits.offset, hits.where, hits.min_probability) for query in chunk]
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
