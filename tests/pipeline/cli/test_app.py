"""A call builds and imports its own command only."""

from typer.main import get_command

from pipeline.cli.app import PARTS, build_app


def list_options(command) -> dict[str, object]:
    """List the options of a command, and of the commands of a group."""
    options: dict[str, object] = {parameter.name: parameter.opts for parameter in command.params}
    return options | {name: list_options(child) for name, child in getattr(command, "commands", {}).items()}


def test_each_command_alone_is_the_one_among_all():
    commands = get_command(build_app()).commands
    names = [name for part in PARTS.values() for name in part]
    assert [name for name in commands if name in names] == names
    for part in PARTS.values():
        for name in part:
            alone = get_command(build_app(name)).commands
            assert list(alone) == list(part)
            assert list_options(alone[name]) == list_options(commands[name])


def test_unknown_name_and_none_have_all_commands():
    """Among them those of packages, whose names are not known."""
    everything = list(get_command(build_app()).commands)
    for name in ("", "serch", "--version", "run"):
        assert list(get_command(build_app(name)).commands) == everything
