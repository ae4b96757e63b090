"""A real Prefect server with worker and deployments, as `tern up` starts them, watched for calls to the outside."""

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
    """The server's REST interface, asked without Prefect's client, and commands run against it."""

    def __init__(self, port: int, env: dict[str, str], home: Path, forks: Forks):
        self.port, self.env, self.home, self.forks = port, env, home, forks
        self.url = f"http://127.0.0.1:{port}/api"

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        return _ask(request)

    def patch(self, path: str, body: dict[str, Any]) -> None:
        head = {"Content-Type": "application/json"}
        _ask(urllib.request.Request(self.url + path, json.dumps(body).encode(), head, method="PATCH"))

    def delete(self, path: str) -> None:
        _ask(urllib.request.Request(self.url + path, method="DELETE"))

    def get(self, path: str) -> Any:
        return _ask(urllib.request.Request(self.url + path))

    def runs(self, flow: str) -> list[dict[str, Any]]:
        """The flow's runs, the latest first."""
        return self.post("/flow_runs/filter", {"flows": {"name": {"any_": [flow]}}, "sort": "EXPECTED_START_TIME_DESC"})

    def since(self, flow: str, known: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The flow's runs that are not among those of an earlier look."""
        ids = {run["id"] for run in known}
        return [run for run in self.runs(flow) if run["id"] not in ids]

    def artifacts(self, run: dict[str, Any]) -> dict[str, dict[str, Any]]:
        """The artifacts of a run, by key without the prefix of its plan."""
        found = self.post("/artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run["id"]]}}})
        return {re.sub(r"^[a-z0-9-]*?-[0-9a-f]{6}-", "", artifact["key"]): artifact for artifact in found}

    def logs(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The lines of a run's log."""
        return self.post("/logs/filter", {"logs": {"flow_run_id": {"any_": [run["id"]]}}, "limit": 200})

    def tasks(self, run: dict[str, Any]) -> list[dict[str, Any]]:
        """The task runs of a run."""
        return self.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [run["id"]]}}})

    def tern(self, *words: str) -> subprocess.CompletedProcess:
        """`tern WORDS` from the root of the repository."""
        return self.command("-m", "pipeline.cli", *words)

    def begun(self, module: str, *words: str) -> subprocess.Popen:
        """`python -m MODULE WORDS`, left to go on, with all that it says in one pipe."""
        command, both = [sys.executable, "-m", module, *words], {"stderr": subprocess.STDOUT, "text": True}
        return subprocess.Popen(command, cwd=ROOT, env=self.env, stdout=subprocess.PIPE, **both)

    def prefect(self, *words: str) -> subprocess.CompletedProcess:
        """`prefect WORDS` as a person types it there."""
        return self.command("-m", "prefect", *words)

    def python(self, code: str, *words: str) -> subprocess.CompletedProcess:
        """Code that speaks to this server, in a process of its own that has the flows imported."""
        return self.forks.run(code, *words)

    def command(self, *words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, *words]
        return subprocess.run(command, cwd=ROOT, env=self.env, capture_output=True, text=True, timeout=240, check=False)

    def listens_at(self) -> set[str]:
        """Addresses at which the server's port is open, as the kernel writes them: 0100007F is 127.0.0.1."""
        tables = (Path("/proc/net") / name for name in ("tcp", "tcp6"))
        sockets = [line.split()[1:4] for table in tables if table.is_file() for line in table.read_text().splitlines()]
        return {local[:-5] for local, _, state in sockets if state == "0A" and local.endswith(f":{self.port:04X}")}

    def told(self) -> list[dict[str, Any]]:
        """What the command of TERN_ON_FAILURE was given, by any run."""
        kept = self.home / "failures"
        return [json.loads(line) for line in kept.read_text().splitlines()] if kept.is_file() else []

    def outside(self) -> str:
        """Connections and look-ups of other machines, by any process started here."""
        log = Path(self.env["WATCH_LOG"])
        return log.read_text() if log.is_file() else ""


def _ask(request: urllib.request.Request, tries: int = 20) -> Any:
    """The answer; asked again while SQLite is busy, as Prefect's client does; to read, also while the disk stands."""
    reads = request.get_method() == "GET" or request.selector.endswith("/filter")
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
                return json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            tries -= 1
            if error.code != 503 or not tries:
                raise
            time.sleep(0.5)
        except TimeoutError:  # a disk that was nearly full has been seen to take no byte for a minute
            tries -= 5
            if not reads or tries <= 0:
                raise


def copied(workspace: Path, folder: Path, stage: str) -> tuple[Path, Path]:
    """(plan, workspace) in which a stage stands before its work, with what a finished workspace has for it."""
    folder.mkdir()
    for part in ["dataset", "stores", "models", "vectors"][: 1 + STAGES.index(stage)]:
        shutil.copytree(workspace / part, folder / "run" / part)
    return small_plan(folder, workers=2), folder / "run"


def marked(variable: str) -> list[int]:
    """Processes that have inherited a variable of the environment, NAME=VALUE."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):
            found += [int(path.parent.name)] if variable.encode() in path.read_bytes().split(b"\0") else []
    return found


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def await_(condition: Any, seconds: float, what: str) -> Any:
    """What `condition` gives once that is true; fails after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, what
        time.sleep(0.3)
    return found


def _declare_plugin(site: Path) -> None:
    """Prefect's entry points of pyproject.toml, where the installed package is older than they are."""
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
    """`tern up WORDS` as a user starts it; ended as a user ends it, and gone then."""
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
    keep = f"import sys; open({str(home / 'failures')!r}, 'a').write(sys.stdin.read() + chr(10))"
    env |= {"TERN_ON_FAILURE": shlex.join([sys.executable, "-c", keep])}
    look_up = "import socket; socket.getaddrinfo('outside.invalid', 80)"
    subprocess.run([sys.executable, "-c", look_up], env=env, capture_output=True)
    assert "outside.invalid" in (home / "outside.log").read_text(), "the watch sees nothing"
    (home / "outside.log").unlink()
    forks = Forks(home, env | {"PREFECT_PLUGINS_ENABLED": "false"})  # as runs are; its imports begin with the server
    log, told = open(home / "up.log", "w"), lambda: (home / "up.log").read_text()  # noqa: SIM115  closed below
    command = [sys.executable, "-m", "pipeline.cli", "up", "--port", str(port), *words]
    ways = {"stdout": log, "stderr": subprocess.STDOUT, "start_new_session": True}
    process = subprocess.Popen(command, cwd=ROOT, env=env | {"TERN_UP": str(home)}, **ways)
    left = lambda: marked(f"TERN_UP={home}")  # noqa: E731  its children lead sessions of their own
    try:
        await_(lambda: "ready  http" in told() or process.poll() is not None, 180, "not ready in time")
        assert process.poll() is None, told()
        yield Server(port, env, home, forks)
        assert len(left()) >= 3, "tern up, the server and the worker"
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        assert process.wait(120) == 0, told()
        with socket.socket() as gone:
            assert gone.connect_ex(("127.0.0.1", port)) != 0
        await_(lambda: not left(), 10, "a process of `tern up` is left")
        assert "Worker 'tern-up' stopped!" in told(), "it was killed"
    finally:
        for pid in left():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()
        forks.end()
        log.close()
