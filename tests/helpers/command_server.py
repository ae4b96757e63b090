"""Run `tern` commands and Python code in processes forked from one that has done the imports, which take seconds.

`start` returns the command lines of `tern` and `python` that forward their arguments, environment and open files to it.
"""

import json
import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path

CLIENT = """#!{python} -SE
import json, os, socket, sys
if {tool!r} == "python" and sys.argv[1:2] != ["-c"]:
    os.execv({python!r}, [{python!r}, *sys.argv[1:]])
with socket.socket(socket.AF_UNIX) as server:
    server.connect({path!r})
    request = {{"tool": {tool!r}, "arguments": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
    socket.send_fds(server, [json.dumps(request).encode()], [0, 1, 2])
    sys.exit(int(server.recv(16)))
"""


def start(folder: Path, environment: dict[str, str]) -> subprocess.Popen:
    """Start the server, which ends with its input, and write the clients `tern` and `python` into `folder/bin`."""
    path = str(folder / "commands.socket")
    (folder / "bin").mkdir()
    for tool in ("tern", "python"):
        client = folder / "bin" / tool
        client.write_text(CLIENT.format(python=sys.executable, path=path, tool=tool))
        client.chmod(0o755)
    command = [sys.executable, str(Path(__file__)), path]
    server = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert server.stdout is not None
    assert server.stdout.readline() == b"ready\n", "the server of commands did not start"
    return server


def serve(path: str) -> None:
    """Import what commands import, then fork for each request until the standard input ends."""
    import pipeline.cli.app  # noqa: F401
    import tests.helpers.heavy_imports  # noqa: F401

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen()
        print("ready", flush=True)
        while listening in select.select([listening, sys.stdin], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                _answer(connection)
            connection.close()


def _answer(connection: socket.socket) -> None:
    """Run one request in a child process and send its exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    message, files, *_ = socket.recv_fds(connection, 1 << 20, 3)
    pid = os.fork()
    if pid == 0:
        for number, file in enumerate(files):
            os.dup2(file, number)
        _run(**json.loads(message))
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    connection.send(str(status).encode())
    os._exit(0)


def _run(tool: str, arguments: list[str], folder: str, environment: dict[str, str]) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    status = 0
    try:
        if tool == "tern":
            from pipeline.cli.app import main

            sys.argv = ["tern", *arguments]
            main()
        else:
            sys.path.insert(0, "")
            exec(compile(arguments[1], "<string>", "exec"), {"__name__": "__main__"})
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # as the interpreter does
        import traceback

        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(sys.argv[1])
