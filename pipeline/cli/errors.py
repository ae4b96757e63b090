"""Report an error that ends a command: one line for the user's and the machine's errors, a file for faults of ours."""

import os
import platform
import sys
import tempfile
import traceback
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor
from importlib.metadata import version
from subprocess import CalledProcessError

from pipeline.cli.output import echo

EXPECTED = (ValueError, OSError, ImportError, CalledProcessError, BrokenExecutor)
INTERRUPTED = 130  # exit code after Ctrl-C: 128 and the number of the signal
REPORT = 'see "Report a fault" in CONTRIBUTING.md'


def report_error(error: BaseException, is_debug: bool = False) -> int:
    """Print an error that ended a command, and return the exit code.

    An error of the user's or of the machine is printed with its next step. Any other error is a fault of this program:
    its traceback goes to a file that can be sent.

    Args:
        error: What the command raised.
        is_debug: Whether to print the traceback too.
    """
    if is_debug:
        echo(*traceback.format_exc().rstrip("\n").split("\n"), err=True)
    if isinstance(error, KeyboardInterrupt):
        return INTERRUPTED
    first, *more = _describe(error)
    echo(f"error: {first}", *more, err=True, color="red")
    return 1


def _describe(error: BaseException) -> Sequence[str]:
    """Return the lines of the message of an error."""
    from data.io import describe_error, find_os_error, is_out_of_memory
    from data.text import LinesError

    if isinstance(error, LinesError):
        return error.args
    if type(error).__module__.startswith("pydantic") and hasattr(error, "errors"):
        problems = (f"{'.'.join(map(str, p['loc']))}: {p['msg']}; the value is {p['input']!r}" for p in error.errors())
        return (f"{'; '.join(problems)}. Correct the value.",)
    if isinstance(error, EXPECTED) or is_out_of_memory(error):
        return (describe_error(error),)
    if (cause := find_os_error(error)) is not None:
        return (describe_error(OSError(cause.errno, f"{type(error).__name__}: {error}")),)
    return (_describe_fault(error),)


def _describe_fault(error: BaseException) -> str:
    fault = f"internal error: {type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
    try:
        where = f"The traceback is in {_write_traceback(error)}"
    except OSError as write_error:
        where = f"The traceback cannot be written ({write_error.strerror}); run the command again with --debug"
    return f"{fault}. This is a fault of tern and not of your data. {where}; to report it, {REPORT}."


def _write_traceback(error: BaseException) -> str:
    """Write the traceback, the command and the versions to a new file in the folder for temporary files."""
    lines = [
        f"tern {version('tern-retrieval')}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {' '.join(sys.argv)}",
        "".join(traceback.format_exception(error)),
    ]
    number, path = tempfile.mkstemp(prefix="tern-error-", suffix=".txt")
    with os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write("\n".join(lines))
    return path
