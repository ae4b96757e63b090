"""Run code against a test's server in forked processes; the parent has done the imports, which take seconds."""

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
    """A process that runs code, with the part of `subprocess.Popen` that tests need. It leads its own process group."""

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
        """Kill the process and all processes that it started, and wait for its end."""
        os.killpg(self.pid, signal.SIGKILL)
        self.wait()


class Forks:
    """The process from which others are forked, with the environment of a server. It ends with this process."""

    def __init__(self, folder: Path, env: dict[str, str]):
        self._folder, self._number = folder, 0
        command, env = (
            [sys.executable, "-m", "tests.helpers.forks", str(folder / "forks")],
            env | {"OMP_NUM_THREADS": "1"},
        )
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        self._process = subprocess.Popen(command, cwd=ROOT, env=env, **pipes)

    def begin(self, code: str, *words: str) -> Forked:
        """Start `python -c CODE WORDS`, with its output in files."""
        if self._process.stdout and not self._process.stdout.closed:
            assert self._process.stdout.readline() == b"ready\n", "the parent of the forked processes did not start"
            self._process.stdout.close()
        self._number += 1
        request = {"code": code, "words": words, "output": str(self._folder / f"fork-{self._number}")}
        connection = _packets()
        connection.connect(str(self._folder / "forks"))
        connection.send(json.dumps(request).encode())
        return Forked(connection)

    def run(self, code: str, *words: str, seconds: float = 240) -> subprocess.CompletedProcess:
        """Run `python -c CODE WORDS` to its end, and return its output."""
        process = self.begin(code, *words)
        output = [self._folder / f"fork-{self._number}.{kind}" for kind in ("out", "err")]
        status = process.wait(seconds)
        return subprocess.CompletedProcess(words, status, *(path.read_text() for path in output))

    def end(self) -> None:
        if self._process.stdin:
            self._process.stdin.close()
        self._process.wait(10)


def _packets() -> socket.socket:
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # each message is received in one piece


def main(path: str) -> None:
    """Import what flow runs import, then fork for each request until standard input is closed."""
    with _packets() as listening:
        listening.bind(path)
        listening.listen()
        import flows.runs  # noqa: F401
        import tests.helpers.heavy_imports  # noqa: F401

        # All runs share one fork server for their worker processes. Each run would otherwise start its own.
        multiprocessing.get_context("forkserver").set_forkserver_preload(
            ["pipeline.stages.extract", "tests.helpers.heavy_imports"]
        )
        forkserver.ensure_running()
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no process waits for the supervisors
        print("ready", flush=True)
        while True:
            readable, *_ = select.select([listening, sys.stdin], [], [])
            if listening not in readable:
                os._exit(0)
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                supervise(connection)
            connection.close()


def supervise(connection: socket.socket) -> None:
    """Fork a process that runs the code, and send its process id and then its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    request = json.loads(connection.recv(1 << 20))
    pid = os.fork()
    if pid == 0:
        connection.close()
        run_code(**request)
    connection.send(b"%d" % pid)
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):  # the test may have ended
        connection.send(b"%d" % status)
    os._exit(0)


def run_code(code: str, words: list[str], output: str) -> Any:
    """Run code as `python -c` does, and exit with its status."""
    os.setsid()
    forkserver._forkserver.ensure_running = lambda: None  # its parent is another process, so waiting for it would fail
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
    except BaseException:  # as the interpreter does
        traceback.print_exc()
        status = 1
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    main(sys.argv[1])
