"""The index that `tern search` and `tern serve` answer from: that of a plan, or a folder that no plan made."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import load_selected_plan, resolve_index_root, resolve_version_option
from pipeline.cli.output import echo
from pipeline.cli.search_queries import QueryOptions

if TYPE_CHECKING:
    from data.config import ColumnType
    from index.search import HotReloader
    from pipeline.plans.plan import Plan
    from pipeline.search import IndexSearcher

DEFAULT_PLAN = "demo"
IndexFolderOption = Annotated[
    Path | None,
    typer.Option("--index", help="Folder of an index that no plan made, or of a copy.", metavar="FOLDER"),
]
IndexModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        help="Model of --index: folder of a model or of a model package, or name of a package. By default, the model "
        "that the index names, in models/ beside it.",
        metavar="MODEL",
    ),
]
ImageFolderOption = Annotated[
    Path | None,
    typer.Option("--image-folder", help="Folder that the paths of --index are relative to.", metavar="FOLDER"),
]


@dataclass(frozen=True)
class SearchSource:
    """Which version of which index is searched."""

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

    def read_column_types(self) -> "dict[str, ColumnType]":
        """Read the types of the columns of the user's own in the version."""
        from index.versions import read_version_manifest

        return read_version_manifest(self.root, self.number).columns

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

    def open_searchers(self) -> "HotReloader[IndexSearcher]":
        """Open the published version and its model for many queries, and follow what is published later."""
        from pipeline.search import open_index_searchers, open_searchers

        if self.plan is not None:
            return open_searchers(self.plan)
        if self.images is None:
            echo("Without --image-folder, no images are sent.", err=True)
        searchers = open_index_searchers(self.root, self.model, self.images)
        if searchers.served.note:
            echo(searchers.served.note, err=True)
        return searchers


@dataclass(frozen=True)
class SourceOptions:
    """The options that select an index."""

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
        """Find the version and read its manifest, before a heavy library is imported.

        Raises:
            FileNotFoundError: There is no index, or nothing is published.
            ValueError: There is no such version.
        """
        from index.versions import read_version_manifest
        from pipeline.workspace import Workspace, check_published

        root = resolve_index_root("", None, self.index) if plan is None else Workspace(plan.workspace).index
        number = resolve_version_option(root, self.version)
        if plan is not None and number is None:
            check_published(Workspace(plan.workspace))
        read_version_manifest(root, number)
        return SearchSource(plan, root, number, self.model, self.images)
