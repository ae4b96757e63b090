"""Commands of `tern weights`: `convert` and `info` of weight files of the bottom-up model."""

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from pipeline.cli.options import ForceOption
from pipeline.cli.output import echo

NAME_LISTS = ("classes", "attributes")
MAX_NAMES = 5  # printed of a list


def convert(
    source: Annotated[
        Path, typer.Argument(help="Weights of a port (.pkl, .bin, .pth) or .safetensors file.", show_default=False)
    ],
    target: Annotated[Path, typer.Argument(help="The .safetensors file to write.", show_default=False)],
    anchors: Annotated[
        str | None, typer.Option(help="Anchors of a file that does not contain them: caffe or detectron2.")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Folder of objects_vocab.txt and attributes_vocab.txt, the names to store in the file."),
    ] = None,
    force: ForceOption = False,
) -> None:
    """Convert weights of MILVLG, airsplay or Hugging Face to one .safetensors file with hash and origin.

    [dim]Example: tern weights convert faster_rcnn_from_caffe_attr.pkl vg36.safetensors --vocabulary vocab[/dim]
    """
    from data.io import check_output_file
    from extractors.bottom_up import convert_weights

    if anchors not in (None, "caffe", "detectron2"):
        raise typer.BadParameter(f"--anchors is {anchors!r}. Pass caffe or detectron2.")
    if target.suffix != ".safetensors":
        raise typer.BadParameter(f"{target} does not end in .safetensors. Pass another name.")
    check_output_file(target, force)
    anchor_layout = cast(Literal["caffe", "detectron2"] | None, anchors)
    echo(f"sha256  {convert_weights(source, target, anchor_layout, vocabulary)}")
    echo("plan    [regions]", '        kind = "bottom-up"', f'        weights = "{target}"')


def info(file: Annotated[Path, typer.Argument(help="A .safetensors file.", show_default=False)]) -> None:
    """Print the metadata of a file of weights.

    [dim]Example: tern weights info vg36.safetensors[/dim]
    """
    from extractors.nn import parse_names, read_safetensors_metadata

    for key, value in read_safetensors_metadata(file).items():
        if key in NAME_LISTS:
            names = parse_names(value, key, file)
            value = f"{len(names):,} names" + (f": {', '.join(names[:MAX_NAMES])}, ..." if names else "")
        echo(f"{key:<14} {value}")


def register_commands(app: typer.Typer) -> None:
    """Add the commands of this module to the group `tern weights`."""
    app.command()(convert)
    app.command()(info)
