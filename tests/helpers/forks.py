"""Code that speaks to a test's server, in processes forked from one that has done the imports, which take seconds."""

import atexit
import json
import multiprocessing
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
import types
from contextlib import suppress
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Forked:
    """A process that carries out code, with what a test needs of `subprocess.Popen`. It leads a group of its own."""

    def __init__(self, connection: socket.socket):
        self._connection, self.returncode = connection, None
        self.pid = int(connection.recv(64))

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._connection], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"forked process {self.pid}", timeout or 0)
            self.returncode = os.waitstatus_to_exitcode(int(self._connection.recv(64)))
            self._connection.close()
        return self.returncode

    def kill(self) -> None:
        """Kill it with all that it has started, and wait for its end."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Forks:
    """The process that is forked, with the environment of a server. It ends with this one."""

    def __init__(self, folder: Path, env: dict[str, str]):
        self._folder, self._number = folder, 0
        command, env = (
            [sys.executable, "-m", "tests.helpers.forks", str(folder / "forks")],
            env | {"OMP_NUM_THREADS": "1"},
        )
        ways = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, **ways)

    def begin(self, code: str, *words: str) -> Forked:
        """`python -c CODE WORDS`, its output into files."""
        if self._process.stdout and not self._process.stdout.closed:
            assert self._process.stdout.readline() == b"ready\n", "the process to be forked did not begin"
            self._process.stdout.close()
        self._number += 1
        asked = {"code": code, "words": words, "output": str(self._folder / f"fork-{self._number}")}
        connection = _packets()
        connection.connect(str(self._folder / "forks"))
        connection.send(json.dumps(asked).encode())
        return Forked(connection)

    def run(self, code: str, *words: str, seconds: float = 240) -> subprocess.CompletedProcess:
        """The same, to its end."""
        process = self.begin(code, *words)
        output = [self._folder / f"fork-{self._number}.{kind}" for kind in ("out", "err")]
        status = process.wait(seconds)
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in output))

    def end(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(10)


def _packets() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # what one side sends the other receives as one


def main(path: str) -> None:
    """Import what runs import; then fork for each request, until the standard input ends."""
    with _packets() as listening:
        listening.bind(path)
        listening.listen()
        import flows.runs  # noqa: F401

        # The worker processes of all runs are forked from one too; each run would start its own, with imports.
        multiprocessing.get_context("forkserver").set_forkserver_preload(
            ["pipeline.stages.extract", "pipeline.stages.embed", "extractors.regions.faster_rcnn"]
        )
        forkserver.ensure_running()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the keepers
        print("ready", flush=True)
        while True:
            asked, *_ = select.select([listening, sys.stdin], [], [])
            if listening not in asked:
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                keep(connection)
            connection.close()


def keep(connection: socket.socket) -> None:
    """Fork once more and tell the number of that process, and how it ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked = json.loads(connection.recv(1 << 20))
    pid = os.fork()
    if pid == 0:
        connection.close()
        carry_out(**asked)
    connection.send(b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):  # a test that has ended hears no more
        connection.send(b"%d" % status)
    os._exit(0)


def carry_out(code: str, words: list[str], output: str) -> Any:
    """What `python -c` does, to its end."""
    os.setsid()
    forkserver._forkserver.ensure_running = lambda: None  # it is no child of this process, which would wait for it
    for number, kind in ((1, "out"), (2, "err")):
        with open(f"{output}.{kind}", "wb") as file:
            os.dup2(file.fileno(), number)
    sys.argv = ["-c", *words]
    sys.modules["__main__"] = module = types.ModuleType("__main__")
    status = 0
    try:
        exec(compile(code, "<string>", "exec"), module.__dict__)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # as the interpreter does at the end of any program
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
