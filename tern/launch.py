"""`torchrun` as a child process that ends with its parent, however that ends."""

import os
import signal
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator

LAST = 20  # lines that a failure is told with


def torchrun(processes: int, module: str, *words: str) -> Iterator[str]:
    """Run `python -m MODULE WORDS` in so many processes of this machine; gives the lines they print, as they come.

    They end when the iterator is closed, and when this process is gone. Raises ValueError with the last lines if they
    fail.
    """
    command = [sys.executable, "-m", "tern.launch", "--standalone", "--nproc-per-node", str(processes), "-m", module]
    last: deque[str] = deque(maxlen=LAST)
    ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    # Leaving the block closes the standard input, which ends them.
    with subprocess.Popen([*command, *words], **ways, text=True, errors="replace") as child:
        for line in child.stdout or ():
            last.append(line.rstrip())
            yield last[-1]
    if child.returncode:
        told = "\n".join(last)
        raise ValueError(f"torchrun of {module} ended with code {child.returncode}; its last lines:\n{told}")


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
