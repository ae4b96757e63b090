"""Run `tern search`: check what needs no model, open the index, and answer the queries in passes."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from pipeline.cli.options import load_selected_plan, resolve_index_root, resolve_version_option
from pipeline.cli.output import echo
from pipeline.cli.search_output import SearchOutput
from pipeline.cli.search_queries import QueryOptions, describe_query

if TYPE_CHECKING:
    from pipeline.plans.plan import Plan
    from pipeline.search import IndexSearcher, Query

DEFAULT_PLAN = "demo"


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


@dataclass(frozen=True)
class SearchSource:
    """Which version of which index `tern search` searches."""

    plan: "Plan | None"
    """The plan of the index; None for the folder of an index alone."""
    root: Path
    """Folder of the index."""
    number: int | None
    """Number of the version; None for the published one."""
    model: str | None
    """Model without a plan, see `open_index_searcher`; None: the one that the index names."""
    images: Path | None
    """Folder that the paths of the index are relative to, without a plan."""

    def resolve_target(self, options: QueryOptions) -> QueryOptions:
        """Return the options with the target that the version has, before a model is loaded.

        Raises:
            ValueError: Captions are to be searched, but the version has none.
        """
        from index.versions import read_version_manifest
        from pipeline.workspace import check_has_captions

        manifest = read_version_manifest(self.root, self.number)
        if options.target is None and options.searched == "caption" and "caption" not in manifest.collections:
            echo("The index has no captions, so images are ranked, as with `--for images`.", err=True)
            return replace(options, target="images")
        if options.searched == "caption":
            check_has_captions(manifest)
        return options

    def open(self, shows_regions: bool) -> "IndexSearcher":
        """Open the version and its model, and say so if there are no regions to show."""
        from pipeline.search import IndexSearcher, Searcher, open_index_searcher

        if self.plan is not None:
            searcher: IndexSearcher = Searcher(self.plan, self.number)
        else:
            searcher = open_index_searcher(self.root, self.model, self.images, self.number)
        if shows_regions and searcher.note:
            echo(searcher.note, err=True)
        return searcher


@dataclass(frozen=True)
class SourceOptions:
    """The options of `tern search` that select an index."""

    plan: str
    overrides: list[str] | None
    version: str
    index: Path | None
    model: str | None
    images: Path | None

    def check(self) -> None:
        """Raise typer.BadParameter if the options contradict each other."""
        if self.index is None and (self.model or self.images):
            raise typer.BadParameter("--model and --image-folder belong to --index. Pass --index too.")
        if self.index is not None and (self.plan != DEFAULT_PLAN or self.overrides):
            raise typer.BadParameter("--index is searched without a plan. Leave out --plan and --set.")

    def load_plan(self) -> "Plan | None":
        """Load the plan; None for the folder of an index alone."""
        return None if self.index is not None else load_selected_plan(self.plan, self.overrides)

    def find(self, plan: "Plan | None") -> SearchSource:
        """Find the version, before a heavy library is imported.

        Raises:
            FileNotFoundError: There is no index, or nothing is published.
            ValueError: There is no such version.
        """
        from pipeline.workspace import Workspace, check_published

        root = resolve_index_root("", None, self.index) if plan is None else Workspace(plan.workspace).index
        number = resolve_version_option(root, self.version)
        if plan is not None and number is None:
            check_published(Workspace(plan.workspace))
        return SearchSource(plan, root, number, self.model, self.images)


def check_search(options: QueryOptions, hits: HitOptions) -> None:
    """Check everything else that needs no model, before a model is loaded."""
    if hits.where is not None:
        from index.metadata import parse_filter  # imports pyarrow and numpy

        parse_filter(hits.where)
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
        shared = (hits.k, hits.offset, hits.where, hits.min_probability, output.shows_regions)
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
