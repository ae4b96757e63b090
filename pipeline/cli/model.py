"""Commands of `tern model`: `export`, `import`, `info` and `verify` of model packages."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.options import ModelOption, PlanOption, SetOption, load_selected_plan, print_message
from pipeline.cli.output import echo

if TYPE_CHECKING:
    from pipeline.runs.export import ExportOptions
    from tern.card import ModelPackage, PackageExtractor

MAX_NOTES_BYTES = 1 << 20
PackageArgument = Annotated[
    str,
    typer.Argument(
        metavar="PACKAGE",
        help="Folder of a model package, name on the Hugging Face hub (owner/name or owner/name@revision), or name of "
        "a shipped model.",
        show_default=False,
    ),
]
OutputOption = Annotated[Path, typer.Option(help="Folder of the package; it must not exist.", show_default=False)]
HalfOption = Annotated[
    bool, typer.Option("--half", help="Store weights in float16, which halves their size; they are used in float32.")
]
DetectorOption = Annotated[
    bool,
    typer.Option(
        "--with-detector", help="Copy the weights file of the region extractor (.safetensors) into the package."
    ),
]
LicenseOption = Annotated[
    str, typer.Option("--license", help="License of the package in its card, as the Hugging Face hub names licenses.")
]
NotesOption = Annotated[
    Path | None, typer.Option(help="Markdown file whose text ends the card of the package.", show_default=False)
]
ReplaceOption = Annotated[bool, typer.Option("--force", help="Replace an existing package.")]


def export(
    output: OutputOption,
    model: ModelOption = "",
    half: HalfOption = False,
    with_detector: DetectorOption = False,
    license_name: LicenseOption = "other",
    notes: NotesOption = None,
    force: ReplaceOption = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Write a trained model as a package that can be carried to other images and machines.

    Reads what exists, and writes the folder of the package and nothing else. `tern evaluate` makes what is missing.

    [dim]Example: tern model export --plan flickr30k --output flickr30k-model --half[/dim]
    """
    loaded = load_selected_plan(plan, overrides)
    options = _make_options(half, with_detector, license_name, notes, force)
    from pipeline.workspace import Workspace, check_has_vectors

    check_has_vectors(Workspace(loaded.workspace))  # before torch is imported
    from pipeline.runs.export import export_model

    _print_package(export_model(loaded, output, options, model or None, print_message))


def import_(
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint of TERN or TERAN (.pth.tar).", show_default=False)],
    output: OutputOption,
    half: HalfOption = False,
    with_detector: DetectorOption = False,
    license_name: LicenseOption = "other",
    notes: NotesOption = None,
    force: ReplaceOption = False,
    plan: PlanOption = "demo",
    overrides: SetOption = None,
) -> None:
    """Write a checkpoint of the authors of TERN or TERAN as a package, with the extractors of a plan.

    The widths of the features are checked. That the checkpoint was trained on features of these extractors is not.

    [dim]Example: tern model import best.pth.tar --plan my-bottom-up.toml --output tern-paper[/dim]
    """
    loaded = load_selected_plan(plan, overrides)
    options = _make_options(half, with_detector, license_name, notes, force)
    if not checkpoint.is_file():  # before torch is imported
        raise FileNotFoundError(f"The checkpoint {checkpoint} does not exist. Pass the .pth.tar file of the authors.")
    from pipeline.runs.export import export_checkpoint

    _print_package(export_checkpoint(loaded, checkpoint, output, options))


def info(package: PackageArgument) -> None:
    """Print what a model package contains: origin, sizes, extractors, figures and files.

    [dim]Example: tern model info flickr30k-model[/dim]
    """
    from pipeline.plans import open_package

    found = open_package(package)
    for name, value in _iter_facts(found):
        echo(f"{name:<12} {value}")
    for line in _iter_figures(found):
        echo(line)
    for name, file in sorted(found.config.files.items()):
        echo(f"file         {name:<26} {file.bytes:>12,} bytes  sha256 {file.sha256[:12]}")


def verify(package: PackageArgument) -> None:
    """Compare every file of a model package with its hash.

    [dim]Example: tern model verify flickr30k-model[/dim]
    """
    from pipeline.plans import open_package
    from tern.card import verify_package

    found = open_package(package)
    for name in verify_package(found):
        echo(f"ok           {name}")
    echo(f"package      {found.name}: all {len(found.config.files):,} files are intact; digest {found.digest[:12]}")


def _make_options(
    half: bool, with_detector: bool, license_name: str, notes: Path | None, force: bool
) -> "ExportOptions":
    """Make the options of an export; the file of notes is read first, because an export takes a while."""
    text = ""
    if notes is not None:
        from data.io import check_limit
        from data.text import read_lines

        check_limit(str(notes), notes.stat().st_size, MAX_NOTES_BYTES)
        text = "\n".join(read_lines(notes))
    from pipeline.runs.export import ExportOptions

    return ExportOptions(half, with_detector, license_name, text, force)


def _print_package(package: "ModelPackage") -> None:
    num_bytes = sum(file.bytes for file in package.config.files.values())
    echo(f"package  {package.folder}  {num_bytes / 1e6:.1f} MB, digest {package.digest[:12]}")
    echo(f'plan     model = "{package.folder}"')


def _iter_facts(package: "ModelPackage") -> Iterator[tuple[str, str]]:
    """Yield name and value of each fact about a package."""
    config, origin = package.config, package.config.origin
    yield "package", package.name
    yield "digest", package.digest
    yield "written by", f"tern-retrieval {origin.program}" if origin.program else "an unknown version"
    largest_first = sorted(origin.images.items(), key=lambda item: -item[1])
    counts = ", ".join(f"{count:,} {split}" for split, count in largest_first)
    yield "trained on", f"{origin.dataset}: {counts} images, {origin.captions:,} captions" if origin.dataset else "?"
    if origin.checkpoint is not None:
        yield "imported", f"from {origin.checkpoint}, sha256 {origin.sha256}"
    shape = config.model
    yield "network", f"{shape.architecture}, {config.num_parameters:,} parameters, vectors of {shape.embed_dim} numbers"
    encoder = ", with a text encoder of its own" if config.fine_tuned else ""
    yield "weights", f"{config.weights_dtype}{encoder}"
    yield "regions", _describe_extractor(package.extractors.regions, config.region_dim)
    yield "tokens", _describe_extractor(package.extractors.text, config.token_dim)


def _describe_extractor(extractor: "PackageExtractor", dim: int) -> str:
    settings = extractor.settings
    if settings is None:
        return f"{dim:,} numbers of another program ({extractor.source})"
    shown = ", ".join(f"{key} {value}" for key, value in settings.items() if value is not None)
    needed = [f"{key} {path.name!r}" for key, path in extractor.paths.items() if path.file is None]
    missing = f"; a plan must set the path of {', '.join(needed)}" if needed else ""
    return f"{dim:,} numbers: {shown}; weights {extractor.source}{missing}"


def _iter_figures(package: "ModelPackage") -> Iterator[str]:
    """Yield the lines of the table of recalls."""
    from tern.card import read_package_metrics

    splits = read_package_metrics(package)
    if splits:
        yield "split   direction      images  captions    R@1    R@5   R@10    rsum"
    for split, values in splits.items():
        for key, label in (("t2i", "text to image"), ("i2t", "image to text")):
            recalls = "  ".join(f"{values.get(f'{key}_r{k}', float('nan')):5.1f}" for k in (1, 5, 10))
            counts = f"{values.get('images', 0):>6,.0f}  {values.get('captions', 0):>8,.0f}"
            yield f"{split:<7} {label}  {counts}  {recalls}  {values.get('rsum', float('nan')):6.1f}"


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern model`."""
    for command in (export, info, verify):
        app.command()(command)
    app.command("import")(import_)
