"""A Prefect server with worker and deployments, started by `tern up`, with a log of connections to other machines."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from tests.helpers.forks import ROOT, Forks
from tests.helpers.small_plan import small_plan

STAGES = ["extract_flickr", "train_tern", "build_index"]
# Python runs this in every process of the server, the worker and the runs.
WATCH = """
import os, sys

def watch(event, arguments):
    if event not in ("socket.connect", "socket.getaddrinfo"):
        return
    host = arguments[1][0] if event == "socket.connect" and isinstance(arguments[1], tuple) else arguments[0]
    if event == "socket.connect" and not isinstance(arguments[1], tuple):
        return  # a socket of this machine's file system
    host = host.decode() if isinstance(host, bytes) else str(host)
    if host not in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "::", "None", "", os.uname().nodename):
        with open(os.environ["WATCH_LOG"], "a") as file:
            file.write(f"{event} {arguments[1] if event == 'socket.connect' else host} by {sys.argv}\\n")

sys.addaudithook(watch)
"""


class Server:
    """The REST interface of the server, used without Prefect's client, and commands run against it."""

    def __init__(self, port: int, env: dict[str, str], home: Path, forks: Forks):
        self.port, self.env, self.home, self.forks = port, env, home, forks
        self.url = f"http://127.0.0.1:{port}/api"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return _send(request)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        head = {"Content-Type": "application/json"}
        _send(urllib.request.Request(self.url + path, json.dumps(body).encode(), head, method="PATCH"))

    def delete(self, path: str) -> None:
        _send(urllib.request.Request(self.url + path, method="DELETE"))

    def get(self, path: str) -> Any:
        return _send(urllib.request.Request(self.url + path))

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """Return the runs of a flow, the latest first."""
        return self.post("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"})

    def new_runs(self, flow: str, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the runs of a flow that are not among the known ones."""
        ids = {run["id"] for run in known}
        return [run for run in self.runs(flow) if run["id"] not in ids]

    def artifacts(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """Return the artifacts of a run by key, without the prefix of its plan."""
        found = self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
        keyed = [artifact for artifact in found if artifact["key"]]  # a stored result has none
        return {re.sub(r"^[a-z0-9-]*?-[0-9a-f]{6}-", "", artifact["key"]): artifact for artifact in keyed}

    def logs(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the lines of the log of a run."""
        return self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})

    def tasks(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """Return the task runs of a run."""
        return self.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})

    def tern(self, *words: str) -> subprocess.CompletedProcess:
        """Run `tern WORDS` in the root of the repository."""
        return self.command("-m", "pipeline.cli", *words)

    def start(self, module: str, *words: str) -> subprocess.Popen:
        """Start `python -m MODULE WORDS`, with both outputs in one pipe."""
        command, options = [sys.executable, "-m", module, *words], {"stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, **options)

    def prefect(self, *words: str) -> subprocess.CompletedProcess:
        """Run `prefect WORDS` in the root of the repository."""
        return self.command("-m", "prefect", *words)

    def python(self, code: str, *words: str) -> subprocess.CompletedProcess:
        """Run code against this server in a new process that has the flows imported."""
        return self.forks.run(code, *words)

    def command(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def listening_addresses(self) -> set[str]:
        """Return the addresses at which the port of the server is open, as in /proc/net: 0100007F is 127.0.0.1."""
        tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
        sockets = [line.split()[1:4] for table in tables if table.is_file() for line in table.read_text().splitlines()]
        return {local[:-5] for local, _, state in sockets if state == "0A" and local.endswith(f":{self.port:04X}")}

    def failure_reports(self) -> list[dict[str, Any]]:
        """Return what the command of TERN_ON_FAILURE received from all runs."""
        path = self.home / "failures"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []

    def outside_connections(self) -> str:
        """Return the connections to other machines and the look-ups of their names, by any process started here."""
        log = Path(self.env["WATCH_LOG"])
        return log.read_text() if log.is_file() else ""


def _send(request: urllib.request.Request, tries: int = 20) -> Any:
    """Send a request, and repeat it while SQLite is busy, as Prefect's client does, or if a read times out."""
    is_read = request.get_method() == "GET" or request.selector.endswith("/filter")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                text = response.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            tries -= 1
            if error.code != 503 or not tries:
                raise
            time.sleep(0.5)
        except TimeoutError:  # a nearly full disk may accept no data for a minute
            tries -= 5
            if not is_read or tries <= 0:
                raise


def copy_workspace(workspace: Path, folder: Path, stage: str) -> tuple[Path, Path]:
    """Copy what a stage needs from a finished workspace; return the plan and the new workspace."""
    folder.mkdir()
    for part in ["dataset", "stores", "models", "vectors"][: 1 + STAGES.index(stage)]:
        shutil.copytree(workspace / part, folder / "run" / part)
    return small_plan(folder, workers=2), folder / "run"


def list_processes_with(variable: str) -> list[int]:
    """List the processes with an environment variable, given as NAME=VALUE."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [int(path.parent.name)] if variable.encode() in path.read_bytes().split(b"\0") else []
    return found


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait_until(condition: Any, seconds: float, message: str) -> Any:
    """Wait until `condition` returns a true value, and return it; fail with `message` after some seconds."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, message
        time.sleep(0.3)
    return found


def _declare_plugin(site: Path) -> None:
    """Declare the Prefect plugins of pyproject.toml if the installed package does not have them yet."""
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["prefect.plugins"]
    if declared.items() <= {(point.name, point.value) for point in entry_points(group="prefect.plugins")}:
        return
    folder = site / "declared-0.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text("Name: declared\nVersion: 0\n")
    lines = [f"{name} = {value}\n" for name, value in declared.items()]
    (folder / "entry_points.txt").write_text("[prefect.plugins]\n" + "".join(lines))


@contextmanager
def up(home: Path, *words: str) -> Iterator[Server]:
    """Start `tern up WORDS` as a user does, end it with Ctrl-C, and check that no process is left."""
    port = free_port()
    (home / "site").mkdir(parents=True)
    (home / "site" / "sitecustomize.py").write_text(WATCH)
    _declare_plugin(home / "site")
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api", "NO_COLOR": "1"}
    paths = [str(home / "site"), str(ROOT), os.environ.get("PYTHONPATH", "")]
    env |= {
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        "PREFECT_CLI_PROMPT": "false",
        "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "5",  # 60 s by default: a test waits for a planned run
        "PREFECT_SERVER_DEPLOYMENTS_CONCURRENCY_SLOT_WAIT_SECONDS": "2",  # 30 by default: a run that waits for another
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    env |= {"WATCH_LOG": str(home / "outside.log"), "COLUMNS": "300"}
    save = f"import sys; open({str(home / 'failures')!r}, 'a').write(sys.stdin.read() + chr(10))"
    env |= {"TERN_ON_FAILURE": shlex.join([sys.executable, "-c", save])}
    look_up = "import socket; socket.getaddrinfo('outside.invalid', 80)"
    subprocess.run([sys.executable, "-c", look_up], env=env, capture_output=True)
    assert "outside.invalid" in (home / "outside.log").read_text(), "the audit hook records nothing"
    (home / "outside.log").unlink()
    forks = Forks(home, env | {"PREFECT_PLUGINS_ENABLED": "false"})  # as runs are; its imports begin with the server
    log, read_log = open(home / "up.log", "w"), lambda: (home / "up.log").read_text()  # noqa: SIM115  closed below
    command = [sys.executable, "-m", "pipeline.cli", "up", "--port", str(port), *words]
    options = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
    process = subprocess.Popen(command, cwd=ROOT, env=env | {"TERN_UP": str(home)}, **options)
    list_left = lambda: list_processes_with(f"TERN_UP={home}")  # noqa: E731  its children lead sessions of their own
    try:
        wait_until(lambda: "ready  http" in read_log() or process.poll() is not None, 180, "not ready in time")
        assert process.poll() is None, read_log()
        yield Server(port, env, home, forks)
        assert len(list_left()) >= 3, "tern up, the server and the worker"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        assert process.wait(120) == 0, read_log()
        with socket.socket() as client:
            assert client.connect_ex(("127.0.0.1", port)) != 0
        wait_until(lambda: not list_left(), 10, "a process of `tern up` is left")
        assert "Worker 'tern-up' stopped!" in read_log(), "it was killed"
    finally:
        for pid in list_left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        forks.end()
        log.close()
