"""torchrun as a child process that ends when its parent ends, whatever ends the parent."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import BrokenExecutor

from data.io import TRANSIENT_ERRNOS
from data.text import LinesError, printable

ERROR_LINES = 20  # last lines of output that an error message quotes
BUFFERED_LINES = 200  # last lines that are searched for the cause of a failure; torchrun itself adds about 40
# The last line of a traceback, except for the ranks that lost their connection because another one had failed.
ERROR_LINE = re.compile(
    r"(?:\[rank\d+\]: ?)?((?:\w+\.)*\w*(?:Error|Exception): (?!\[.*(?:gloo|c10d|nccl)).+)", re.IGNORECASE
)


def run_torchrun(num_processes: int, module: str, *args: str) -> Iterator[str]:
    """Run `python -m MODULE ARGS` in several processes of this machine.

    The processes end when the iterator is closed or this process ends.

    Args:
        num_processes: Number of processes.
        module: Module to run.
        args: Its arguments.

    Yields:
        The lines that the processes print, as they are printed.

    Raises:
        BrokenExecutor, OSError, ValueError: torchrun failed; see `make_failure_error`.
    """
    torchrun = [sys.executable, "-m", "tern.parallel.torchrun", "--standalone", "--nproc-per-node", str(num_processes)]
    last_lines: deque[str] = deque(maxlen=BUFFERED_LINES)
    # Leaving the block closes the standard input, which ends the processes.
    with subprocess.Popen(
        [*torchrun, "-m", module, *args],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as child:
        for line in child.stdout or ():
            last_lines.append(line.rstrip())
            yield last_lines[-1]
    if child.returncode:
        raise make_failure_error(f"torchrun of {module} ended with code {child.returncode}", list(last_lines))


def make_failure_error(what: str, lines: Sequence[str]) -> Exception:
    """Build the error for a torchrun that failed.

    Args:
        what: Start of the message.
        lines: Last lines that torchrun and its processes printed.

    Returns:
        BrokenExecutor if the first process to fail was killed; OSError with its number for a transient I/O error in a
        process. Both may be retried. Otherwise ValueError with the error of the process, or with its last lines.
    """
    text = "\n".join(lines)
    if killed := re.search(r"Root Cause.*?exitcode *: -(\d+)", text, re.DOTALL):
        return BrokenExecutor(f"{what}: signal {killed[1]} ended a process. Run the command again to resume.")
    end = next((at for at, line in enumerate(lines) if "torch/distributed/elastic/" in line), len(lines))
    quoted = lines[max(0, end - ERROR_LINES) : end]
    causes = [printable(match[1]) for line in quoted if (match := ERROR_LINE.match(line))]
    for cause in causes:
        errno = re.search(r"\[Errno (\d+)\]", cause)
        if errno and int(errno[1]) in TRANSIENT_ERRNOS:
            return OSError(int(errno[1]), f"{what}: {cause}")
    return ValueError(f"{what}: {causes[0]}") if causes else LinesError(f"{what}; its last lines:", *quoted)


def main() -> None:
    """Run torchrun with the arguments of the command line; it ends when the standard input ends."""

    def end_with_stdin() -> None:
        while os.read(0, 4096):  # not sys.stdin: a thread that holds its lock would keep the interpreter from ending
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun then ends its processes

    threading.Thread(target=end_with_stdin, daemon=True).start()
    from torch.distributed.run import main as run  # lazy: after the thread, which must run while torch is imported

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
