"""The application `tern`: builds it out of the commands that a call needs, and reports errors on one line."""

import gc
import io
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any, cast

import typer
from typer.core import TyperCommand, TyperGroup

from data.text import printable_lines, show_logs
from pipeline.cli.errors import report_error
from pipeline.cli.output import echo

DEBUG = "--debug"
HELP = """Find images by text and captions by photo.

A plan configures a pipeline: dataset, extractors, model and index. It is a TOML file or the name of a shipped plan.
`extract`, `train`, `evaluate`, `index` and `pipeline` first run the stages that they need and that are not finished.
Finished stages are not run again. Only `index` and `pipeline` publish. All other commands work with what exists: they
say what is missing and which command makes it. The help of each command says what it writes.
"""
PARTS = {  # commands and groups by the part of the application that has them
    "run": ("demo", "pipeline", "extract", "train", "evaluate"),
    "photos": ("photos",),
    "search": ("search",),
    "serve": ("serve",),
    "mcp": ("mcp",),
    "duplicates": ("duplicates",),
    "pages": ("report", "misses", "plans", "lineage"),
    **{group: (group,) for group in ("index", "model", "store", "weights")},
}
GROUP_HELPS = {  # the group `index` is a command too, which has its own
    "model": "Export, import, inspect and verify model packages.",
    "store": "Inspect, verify, compact, import and export feature stores.",
    "weights": "Convert and inspect weights of the bottom-up model.",
}


class LightCommand(TyperCommand):
    """Command that starts without pydantic (see `_set_help_default`) and expands `~` in paths."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the arguments; a path such as `--output=~/x`, which bash does not expand, gets the home folder."""
        rest = super().parse_args(ctx, args)
        ctx.params.update({name: _expand_home(value) for name, value in ctx.params.items()})
        return rest

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`."""
        return _set_help_default(super().get_help_option(ctx))


class LightGroup(TyperGroup):
    """Group of commands that starts without pydantic: see `_set_help_default`."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command. The message of a usage error may quote the name of a file, which may hold any characters."""
        try:
            return super().invoke(ctx)
        except Exception as error:  # typer has moved the base class of its usage errors between releases
            message = getattr(error, "message", None)
            if hasattr(error, "format_message") and isinstance(message, str):
                vars(error)["message"] = printable_lines(message)
            raise

    def get_help_option(self, ctx: Any) -> Any:
        """Return the option `--help`."""
        return _set_help_default(super().get_help_option(ctx))


def _set_help_default(option: Any) -> Any:
    """Set the default of the option `--help` to False.

    Typer 0.29 leaves it None, and imports pydantic to convert None to bool whenever a command starts.
    """
    if option is not None:
        option.default = False
    return option


def _expand_home(value: Any) -> Any:
    """Expand `~` at the start of a path, or of each path of a list, unless a file of that name exists."""
    if isinstance(value, list):
        return [_expand_home(part) for part in value]
    if not isinstance(value, Path) or not str(value).startswith("~") or os.path.lexists(value):
        return value
    try:
        return value.expanduser()
    except RuntimeError:
        raise ValueError(f"{value} starts with ~, but there is no such user. Write the path out.") from None


def build_app(name: str | None = None) -> typer.Typer:
    """Build the application.

    Args:
        name: Command or group that will be called, so that no other is imported. For None and for a name that is not in
            `PARTS`: all of them, with the commands that packages register as entry points `tern.commands`.
    """
    app = typer.Typer(
        cls=LightGroup,
        help=HELP,
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
    )
    app.callback()(options)
    selected = [part for part, names in PARTS.items() if name in names]
    for part in selected or PARTS:
        _register(app, part)
    groups = [group.typer_instance for group in app.registered_groups if group.typer_instance is not None]
    for command in (command for group in (app, *groups) for command in group.registered_commands):
        command.cls = LightCommand
    if not selected:
        from importlib.metadata import entry_points

        for point in entry_points(group="tern.commands"):
            point.load()(app)
    return app


def _register(app: typer.Typer, part: str) -> None:
    """Import the modules of a part of `PARTS`, and add their commands to the application."""
    match part:
        case "run":
            from pipeline.cli import run

            run.register_commands(app)
        case "photos":
            from pipeline.cli import photos

            photos.register_commands(app)
        case "search":
            from pipeline.cli import search

            search.register_commands(app)
        case "serve":
            from pipeline.cli import serve

            serve.register_commands(app)
        case "mcp":
            from pipeline.cli import mcp

            mcp.register_commands(app)
        case "duplicates":
            from pipeline.cli import duplicates

            duplicates.register_commands(app)
        case "pages":
            from pipeline.cli import pages

            pages.register_commands(app)
        case _:
            app.add_typer(_build_group(part), name=part)


def _build_group(name: str) -> typer.Typer:
    group = typer.Typer(help=GROUP_HELPS.get(name), no_args_is_help=name in GROUP_HELPS)
    match name:
        case "index":
            from pipeline.cli import index_build, index_versions

            index_build.register_commands(group)
            index_versions.register_commands(group)
        case "model":
            from pipeline.cli import model

            model.register_commands(group)
        case "store":
            from pipeline.cli import store, store_exchange

            store.register_commands(group)
            store_exchange.register_commands(group)
        case "weights":
            from pipeline.cli import weights

            weights.register_commands(group)
    return group


def print_version(is_requested: bool) -> None:
    """Print the installed version and exit, if `--version` is passed."""
    if is_requested:
        from importlib.metadata import version

        echo(f"tern {version('tern-retrieval')}")
        raise typer.Exit


def options(
    show_version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=print_version, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option(DEBUG, help="Print the traceback of an error.")] = False,
) -> None:
    """Accept the options of `tern` itself."""


def main() -> None:
    """Run the command line; print an error of the user or of the machine without a traceback."""
    # Passive OpenMP threads sleep while they wait. An epoch takes 12 s with them and 30 s with spinning ones next to
    # another busy process, and 4.3 s and 3.9 s alone.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # The exporter of ONNX warns of shapes that it does not know; each exported graph is compared with torch.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # Pydantic would read the metadata of all installed packages in search of plugins.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "1")
    for stream in (sys.stdout, sys.stderr):
        # A locale without a character prints it as an escape sequence. A closed stream stays as it is.
        with suppress(OSError, ValueError, AttributeError):
            cast(io.TextIOWrapper, stream).reconfigure(errors="backslashreplace")
    is_debug = DEBUG in sys.argv[1:]
    arguments = [argument for argument in sys.argv[1:] if argument != DEBUG]
    try:
        show_logs()
        build_app(arguments[0] if arguments else None)(arguments, standalone_mode=True)
    except (Exception, KeyboardInterrupt) as error:  # all of them: a user sees no traceback
        sys.exit(report_error(error, is_debug))
    finally:
        # At its end, the interpreter would search all objects for cycles: a tenth of the time of a short command. After
        # a command with torch, the bindings of triton would report each object that was not searched.
        if "torch" not in sys.modules:
            gc.freeze()
