"""Command `tern photos`: index a folder of photographs with a model that exists, and search it."""

import os
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import check_port_is_free, print_message
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.photo_folders import PhotoFolder
    from pipeline.plans.plan import Plan

HOST = "127.0.0.1"
PackageOption = Annotated[
    str | None,
    typer.Option(
        help="Model package: a folder, a name on the Hugging Face hub (owner/name), or `photos`, which is shipped. "
        "By default, that of the last run, at first `photos`.",
        show_default=False,
    ),
]
WorkspaceOption = Annotated[
    Path | None,
    typer.Option(
        help="Folder of everything that is made. By default, that of the last run, at first a folder in "
        "$XDG_DATA_HOME/tern/photos.",
        show_default=False,
    ),
]


def photos(
    folder: Annotated[
        Path | None, typer.Argument(help="Folder of photographs; nothing in it is written.", show_default=False)
    ] = None,
    serve: Annotated[bool, typer.Option("--serve", help="Serve the search page afterwards, until Ctrl-C.")] = False,
    model: PackageOption = None,
    workspace: WorkspaceOption = None,
    include: Annotated[
        list[str] | None,
        typer.Option(metavar="GLOB", help="Index only paths that match, such as '2024/**'; may be repeated."),
    ] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Leave out paths that match; may be repeated.")
    ] = None,
    port: Annotated[int, typer.Option(min=1, max=65535, help="TCP port of --serve.")] = 8080,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Processes; by default, one per core.")] = None,
) -> None:
    """Index a folder of photographs, so that sentences find them; without a folder, list what is indexed.

    Needs no captions, no GPU and no network. Run again, it updates the index with new, changed, moved and deleted
    photographs. Makes a plan and a workspace; `tern search`, `serve` and `report` take the plan.

    [dim]Examples: tern photos ~/Pictures
    tern photos ~/Pictures --serve
    tern photos ~/Pictures --exclude 'Screenshots/**'
    tern photos[/dim]
    """
    if folder is None:
        _list_folders()
        return
    selected = _select(folder, model, workspace, include, exclude)
    if serve:
        check_port_is_free(HOST, port)
    _update(selected, plan := _make_plan(selected, workers))
    if serve:
        _serve(plan, port)


def _select(
    folder: Path, model: str | None, workspace: Path | None, include: list[str] | None, exclude: list[str] | None
) -> "PhotoFolder":
    """Return the settings of a folder: those of the command line, else those of its last run, else the defaults."""
    from pipeline.photo_folders import (
        PhotoFolder,
        check_workspace,
        default_workspace,
        read_photo_folder,
    )
    from pipeline.plan_files import find_plan_file, resolve_path

    images = resolve_path(folder)
    if not images.is_dir():
        what = "is not a folder" if os.path.lexists(folder) else "does not exist"
        raise FileNotFoundError(f"{folder} {what}. Pass the folder of your photographs.")
    plan_file = find_plan_file(images)
    last = read_photo_folder(plan_file) if plan_file.is_file() else None
    base = last or PhotoFolder(images, default_workspace(images))
    if model is not None and Path(model).is_dir():
        model = str(Path(model).resolve())  # the plan is used from other folders too
    selected = PhotoFolder(
        images,
        base.workspace if workspace is None else resolve_path(workspace),
        base.model if model is None else model,
        base.include if include is None else tuple(include),
        base.exclude if exclude is None else tuple(exclude),
    )
    check_workspace(selected)
    return selected


def _make_plan(folder: "PhotoFolder", workers: int | None) -> "Plan":
    """Make the plan of a folder, which is written when the folder was read: a mistake is not kept for the next run."""
    from data.config import check_glob
    from pipeline.photo_folders import format_photo_plan
    from pipeline.plans.load import parse_plan

    for option, patterns in (("--include", folder.include), ("--exclude", folder.exclude)):
        for pattern in patterns:
            try:
                check_glob(pattern)
            except ValueError as error:
                raise ValueError(f"{option} {pattern!r}: {error}.") from error
    overrides = () if workers is None else (f"workers={workers}",)
    return parse_plan(folder.plan_file, format_photo_plan(folder), overrides)


def _update(folder: "PhotoFolder", plan: "Plan") -> None:
    from pipeline.cli.dataset_notes import print_dataset_notes
    from pipeline.photo_folders import write_photo_plan
    from pipeline.runs import PipelineRunner
    from pipeline.runs.photos import update_photo_index
    from pipeline.workers import make_process_map

    runner = PipelineRunner(plan, lambda stage: make_process_map(plan.workers, stage))
    dataset = runner.load_dataset()
    write_photo_plan(folder)
    update = update_photo_index(runner, dataset, print_message)
    print_dataset_notes(runner, update.vectors.features)
    echo(
        f"found    {update.changes}",
        f"work     {update.num_extracted:,} extracted",
        f"index    {update.index}",
        f'search   tern search --plan {_quote(folder.images)} "children playing on a beach"',
        f"page     tern serve --plan {_quote(folder.images)}",
    )


def _serve(plan: "Plan", port: int) -> None:
    from pipeline.search import open_searchers
    from pipeline.service.server import ServiceOptions, serve

    serve(open_searchers(plan), ServiceOptions(HOST, port))


def _list_folders() -> None:
    from index.versions import read_version_manifest
    from pipeline.photo_folders import list_plan_files, read_photo_folder
    from pipeline.plan_files import list_root

    plan_files = list_plan_files()
    if not plan_files:
        echo(f"No folder of photographs is indexed in {list_root()}. Run `tern photos FOLDER`.")
    for path in plan_files:
        name = str(path)  # of a plan that cannot be read
        try:
            folder = read_photo_folder(path)
            name = str(folder.images)
            manifest = read_version_manifest(folder.workspace / "index")
            count = manifest.collections["image"].counts.live
            state = f"{count:,} photographs, version {manifest.version}"
        except (OSError, ValueError) as error:
            state = f"not indexed: {error}"
        echo(f"{name}  {state}", f"    --plan {_quote(path)}")


def _quote(path: Path) -> str:
    """Quote a path for a shell."""
    return shlex.quote(str(path))


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    app.command()(photos)
