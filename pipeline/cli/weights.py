"""`tern weights ...`: the weights of the bottom-up model, from the layouts that people have into one file."""

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Weights of the bottom-up model: convert them, look at them.", no_args_is_help=True)


@app.command()
def convert(
    source: Annotated[Path, typer.Argument(help="A port's .pkl, .bin or .pth, or a .safetensors.")],
    target: Annotated[Path, typer.Argument(help="The .safetensors to write.")],
    anchors: Annotated[
        str | None, typer.Option(help="caffe or detectron2: of a file that does not hold its own anchors.")
    ] = None,
    vocabulary: Annotated[
        Path | None,
        typer.Option(help="Folder of objects_vocab.txt and attributes_vocab.txt: names for the file."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over what is there.")] = False,
) -> None:
    """One .safetensors file with hash and origin, from the layouts of MILVLG, airsplay and Hugging Face.

    [dim]Example: tern weights convert faster_rcnn_from_caffe_attr.pkl vg36.safetensors --vocabulary vocab[/dim]
    """
    from extractors.bottom_up import convert_weights as converted

    if anchors not in (None, "caffe", "detectron2"):
        raise typer.BadParameter(f"--anchors is {anchors!r}; it may be caffe or detectron2")
    if target.suffix != ".safetensors":
        raise typer.BadParameter(f"{target} must end in .safetensors")
    if target.exists() and not force:
        raise ValueError(f"{target} is there already: give another name, or --force")
    typer.echo(f"sha256  {converted(source, target, anchors, vocabulary)}")
    typer.echo(f'plan    [regions]\n        kind = "bottom-up"\n        weights = "{target}"')


@app.command()
def info(file: Annotated[Path, typer.Argument(help="A .safetensors file.")]) -> None:
    """What a file of weights says of itself. [dim]Example: tern weights info vg36.safetensors[/dim]"""
    from extractors.nn import read_safetensors_metadata

    for key, value in read_safetensors_metadata(file).items():
        names = json.loads(value) if value.startswith("[") else None
        some = f": {', '.join(names[:5])}, ..." if names else ""
        shown = value if names is None else f"{len(names):,} names{some}"
        typer.echo(f"{key:<14} {shown}")
