"""Command `tern photos`: index a folder of photographs with a model that exists, and search it."""

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import print_message
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.photo_folders import PhotoFolder
    from pipeline.plans.plan import Plan

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
    from pipeline.photo_folders import write_photo_plan

    selected = _select(folder, model, workspace, include, exclude)
    plan_file = write_photo_plan(selected)
    plan = _load(plan_file, workers)
    _update(plan, plan_file)
    if serve:
        _serve(plan, port)


def _select(
    folder: Path, model: str | None, workspace: Path | None, include: list[str] | None, exclude: list[str] | None
) -> "PhotoFolder":
    """Return the settings of a folder: those of the command line, else those of its last run, else the defaults."""
    from pipeline.photo_folders import PhotoFolder, default_workspace, find_plan_file, read_photo_folder

    images = folder.resolve()
    if not images.is_dir():
        raise FileNotFoundError(f"{folder} is not a folder. Pass the folder of your photographs.")
    plan_file = find_plan_file(images)
    last = read_photo_folder(plan_file) if plan_file.is_file() else None
    base = last or PhotoFolder(images, default_workspace(images))
    if model is not None and Path(model).is_dir():
        model = str(Path(model).resolve())  # the plan is used from other folders too
    return PhotoFolder(
        images,
        base.workspace if workspace is None else workspace.resolve(),
        base.model if model is None else model,
        base.include if include is None else tuple(include),
        base.exclude if exclude is None else tuple(exclude),
    )


def _load(plan_file: Path, workers: int | None) -> "Plan":
    from pipeline.plans.load import load_plan

    return load_plan(str(plan_file), () if workers is None else (f"workers={workers}",))


def _update(plan: "Plan", plan_file: Path) -> None:
    from pipeline.cli.dataset_notes import print_dataset_notes
    from pipeline.runs import PipelineRunner
    from pipeline.runs.photos import update_photo_index
    from pipeline.workers import make_process_map

    runner = PipelineRunner(plan, lambda stage: make_process_map(plan.workers, stage))
    update = update_photo_index(runner, print_message)
    print_dataset_notes(runner, update.vectors.features)
    echo(
        f"found    {update.changes}",
        f"work     {update.num_extracted:,} extracted",
        f"index    {update.index}",
        f'search   tern search --plan {_quote(plan_file)} "children playing on a beach"',
        f"page     tern serve --plan {_quote(plan_file)}",
    )


def _serve(plan: "Plan", port: int) -> None:
    from pipeline.service.server import serve

    serve(plan, "127.0.0.1", port)


def _list_folders() -> None:
    from index.versions import read_version_manifest
    from pipeline.photo_folders import list_plan_files, list_root, read_photo_folder

    plan_files = list_plan_files()
    if not plan_files:
        echo(f"No folder of photographs is indexed in {list_root()}. Run `tern photos FOLDER`.")
    for path in plan_files:
        try:
            folder = read_photo_folder(path)
            manifest = read_version_manifest(folder.workspace / "index")
            count = manifest.collections["image"].counts.live
            state = f"{count:,} photographs, version {manifest.version}"
        except (OSError, ValueError) as error:
            state = f"not indexed: {error}"
        echo(f"{folder.images}  {state}", f"    --plan {_quote(path)}")


def _quote(path: Path) -> str:
    """Quote a path for a shell."""
    return shlex.quote(str(path))


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the application."""
    app.command()(photos)
