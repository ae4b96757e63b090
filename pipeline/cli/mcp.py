"""`tern mcp`: let an assistant search, over the Model Context Protocol."""

import sys
from contextlib import redirect_stdout

import typer

from pipeline.cli.options import PlanOption, SetOption
from pipeline.cli.search_source import (
    DEFAULT_PLAN,
    ImageFolderOption,
    IndexFolderOption,
    IndexModelOption,
    SourceOptions,
)


def mcp(
    plan: PlanOption = DEFAULT_PLAN,
    index: IndexFolderOption = None,
    model: IndexModelOption = None,
    image_folder: ImageFolderOption = None,
    overrides: SetOption = None,
) -> None:
    """Let an assistant search an index: an MCP server on the standard streams, until its client closes them.

    The tools describe_collection, search, similar and get_image only read. The assistant starts the command itself.
    Its configuration names the full path of `tern`:

    {"mcpServers": {"photos": {"command": "/path/to/tern", "args": ["mcp", "--plan", "/path/to/Pictures"]}}}

    [dim]Examples: tern mcp --plan demo
    tern mcp --index copied-index --model my-model --image-folder photos[/dim]
    """
    selected = SourceOptions(plan, overrides, "", index, model, image_folder)
    selected.check()
    source = selected.find(selected.load_plan())  # before heavy libraries are imported
    with redirect_stdout(sys.stderr):  # nothing but the protocol is written there
        from pipeline.service.mcp_server import serve_mcp

        searchers = source.open_searchers()
    serve_mcp(searchers)


def register_commands(app: typer.Typer) -> None:
    """Add the command of this module to the application."""
    app.command()(mcp)
