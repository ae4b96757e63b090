"""`tern store ...`: look at feature stores, check them, put them in order, exchange them with other software."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Feature stores: look at them, check them, exchange them.", no_args_is_help=True)
FolderArgument = Annotated[Path, typer.Argument(help="A store's folder, for instance runs/demo/stores/regions-...")]


@app.command()
def info(folder: FolderArgument) -> None:
    """What a store holds. [dim]Example: tern store info runs/demo/stores/regions-*[/dim]"""
    from data.store import Store

    store = Store(folder)
    typer.echo(f"{store.kind} of {len(store):,} items, generation {store.generation}")
