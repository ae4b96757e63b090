"""`torchrun` as a child process that ends with its parent, however that ends."""

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

ERROR_LINES = 20  # lines that a failure is told with
BUFFERED_LINES = 200  # lines that are looked through for its cause: torchrun adds some 40 of its own


def run_torchrun(num_processes: int, module: str, *args: str) -> Iterator[str]:
    """Run `python -m MODULE WORDS` in so many processes of this machine; gives the lines they print, as they come.

    They end when the iterator is closed, and when this process is gone. Raises what `failure` says if they fail.
    """
    command = [
        sys.executable,
        "-m",
        "tern.parallel.torchrun",
        "--standalone",
        "--nproc-per-node",
        str(num_processes),
        "-m",
        module,
    ]
    last: deque[str] = deque(maxlen=BUFFERED_LINES)
    ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # Leaving the block closes the standard input, which ends them.
    with subprocess.Popen([*command, *args], **ways, text=True, errors="replace") as child:
        for line in child.stdout or ():
            last.append(line.rstrip())
            yield last[-1]
    if child.returncode:
        raise make_failure_error(f"torchrun of {module} ended with code {child.returncode}", list(last))


def make_failure_error(what: str, lines: Sequence[str]) -> Exception:
    """The error for a torchrun that failed, by the lines that it and its processes printed.

    BrokenExecutor if the first process to fail was killed, OSError with its number for a fault of the machine in one of
    them (both may pass), ValueError with the processes' last lines otherwise.
    """
    text = "\n".join(lines)
    if killed := re.search(r"Root Cause.*?exitcode *: -(\d+)", text, re.DOTALL):
        return BrokenExecutor(f"{what}: a process was ended by signal {killed[1]}")
    ours = next((at for at, line in enumerate(lines) if "torch/distributed/elastic/" in line), len(lines))
    told = "\n".join(lines[max(0, ours - ERROR_LINES) : ours])
    faults = [int(number) for number in re.findall(r"Error: \[Errno (\d+)\]", told)]
    if number := next((number for number in faults if number in TRANSIENT_ERRNOS), None):
        return OSError(number, f"{what}; its last lines:\n{told}")
    return ValueError(f"{what}; its last lines:\n{told}")


def main() -> None:
    """torchrun with the arguments of the command line; an end of the standard input ends it and its processes."""

    def watch() -> None:
        while os.read(0, 4096):  # not sys.stdin: its lock, held here, would not let the interpreter end
            pass
        os.kill(os.getpid(), signal.SIGTERM)  # torchrun then ends its processes

    threading.Thread(target=watch, daemon=True).start()
    from torch.distributed.run import main as run

    run(sys.argv[1:])


if __name__ == "__main__":
    main()
