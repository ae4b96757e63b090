"""The command line `tern`: parses options, calls one public function per command, and prints the result.

Its modules import the heavy libraries inside the commands, so that `tern --help` starts at once. It is independent of
Prefect: `flows` adds its commands through the entry points `tern.commands`.
"""

from pipeline.cli.options import PlanOption, SetOption, check_port_is_free
from pipeline.cli.output import echo

__all__ = [
    "PlanOption",
    "SetOption",
    "check_port_is_free",
    "echo",
]
