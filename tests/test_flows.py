"""A real Prefect server and worker on loopback: deployed, run by the stock command, read back through the API."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from pathlib import Path

import pytest
import yaml

from data.store import Store
from pipeline.plan import load_plan
from tests.conftest import small_plan

prefect = pytest.importorskip("prefect")
ROOT = Path(__file__).parent.parent
NAMES = ["build-index", "extract-flickr", "pipeline", "reindex", "train-tern"]
KEYS = {"name", "entrypoint", "description", "tags", "parameters", "work_pool", "concurrency_limit", "schedules"}


def test_prefect_yaml_has_no_key_that_prefect_would_drop_silently():
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    assert set(content) == {"name", "pull", "deployments"}
    assert sorted(entry["name"] for entry in content["deployments"]) == NAMES
    for entry in content["deployments"]:
        assert set(entry) <= KEYS, entry["name"]
        module, _, function = entry["entrypoint"].rpartition(".")
        found = getattr(__import__(module, fromlist=[function]), function)
        assert found.name == entry["name"], "flow and deployment share a name"
        assert set(entry["parameters"]) <= set(found.parameters.properties)
        assert set(entry["concurrency_limit"]) == {"limit", "collision_strategy"}
        for schedule in entry.get("schedules", []):
            assert set(schedule) <= {"cron", "timezone", "slug", "active", "parameters"}
    assert set(tomllib.loads((ROOT / "prefect.toml").read_text())) == {"api", "server", "cli"}


class Api:
    """The server's REST interface, asked without Prefect's client."""

    def __init__(self, port: int):
        self.url = f"http://127.0.0.1:{port}/api"

    def post(self, path: str, body: dict) -> list[dict]:
        request = urllib.request.Request(
            self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(request, timeout=20) as answer:
            return json.load(answer)

    def latest_run(self, flow: str) -> dict:
        where = {"flows": {"name": {"any_": [flow]}}, "sort": "START_TIME_DESC", "limit": 1}
        return self.post("/flow_runs/filter", where)[0]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """`tern up` as a user starts it: server, deployments and worker."""
    port, home = free_port(), tmp_path_factory.mktemp("prefect")
    env = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_API_URL": f"http://127.0.0.1:{port}/api"}
    env |= {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_CLI_PROMPT": "false", "NO_COLOR": "1"}
    log = open(home / "up.log", "w")  # noqa: SIM115  closed below
    command = [sys.executable, "-m", "pipeline.cli", "up", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while "ready  http" not in (home / "up.log").read_text():
            assert process.poll() is None, (home / "up.log").read_text()
            assert time.monotonic() < deadline, (home / "up.log").read_text()
            time.sleep(0.5)
        yield port, env
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", port), 2)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        log.close()


def run(server, name: str, plan: Path) -> subprocess.CompletedProcess:
    env = server[1]
    words = ["deployment", "run", f"{name}/{name}", "--param", f"plan={plan}", "--watch"]
    command = [sys.executable, "-m", "prefect", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)


def test_deployed_flows_run_and_leave_stores_artifacts_and_an_index(server, finished, tmp_path):
    api, plan = Api(server[0]), small_plan(tmp_path, workers=2)
    assert sorted(found["name"] for found in api.post("/deployments/filter", {})) == NAMES
    ended = run(server, "extract-flickr", plan)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    found = api.latest_run("extract-flickr")
    assert (found["state"]["type"], found["name"]) == ("COMPLETED", f"extract {plan}")
    tasks = api.post("/task_runs/filter", {"flow_runs": {"id": {"any_": [found["id"]]}}})
    names = sorted(t["name"] for t in tasks if t["name"].startswith(("region", "token")))
    assert names == [f"region-features-{i:03d}" for i in range(4)] + [f"token-features-{i:03d}" for i in range(4)]
    assert {t["state"]["type"] for t in tasks} == {"COMPLETED"}
    edges = [i for t in tasks for inputs in t["task_inputs"].values() for i in inputs if "id" in i]
    assert edges == [], "shards do not depend on each other"
    for ours in (Path(folder) for folder in (tmp_path / "run" / "stores").iterdir()):
        theirs = finished.plan.workspace / "stores" / ours.name
        assert Store(ours).ids == Store(theirs).ids, "flow and command line make the same stores"

    ended = run(server, "pipeline", plan)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    keys = {artifact["key"] for artifact in api.post("/artifacts/filter", {})}
    assert keys >= {"stores", "set-aside", "metrics", "epochs", "index", "published", "region-features-progress"}
    logs = " ".join(log["message"] for log in api.post("/logs/filter", {"limit": 200, "sort": "TIMESTAMP_DESC"}))
    assert "epoch 3 of 3" in logs, "the training's lines reach the run's log"
    assert (tmp_path / "run" / "report.html").is_file()

    ended = run(server, "reindex", plan)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert json.loads((tmp_path / "run" / "index" / "CURRENT").read_text())["version"] == 1, "nothing new, no version"


def test_relative_plans_and_workspaces_are_found_from_the_folder_that_was_deployed(server, tmp_path):
    workspace = f"runs/test-{os.getpid()}"
    settings = [f"workspace={workspace}", "demo.images=4", "demo.splits={train = 2, val = 1, test = 1}", "workers=1"]
    words = ["deployment", "run", "extract-flickr/extract-flickr", "--param", "plan=demo"]
    words += ["--param", f"overrides={json.dumps(settings)}", "--watch"]
    command = [sys.executable, "-m", "prefect", *words]
    try:
        ended = subprocess.run(
            command, cwd=ROOT, env=server[1], capture_output=True, text=True, timeout=240, check=False
        )
        assert ended.returncode == 0, ended.stdout + ended.stderr
        assert len(list((ROOT / workspace / "stores").iterdir())) == 2
    finally:
        shutil.rmtree(ROOT / workspace, ignore_errors=True)


def test_up_says_so_when_its_port_is_taken():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        command = [sys.executable, "-m", "pipeline.cli", "up", "--port", str(taken.getsockname()[1])]
        ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "is in use" in ended.stderr


def test_a_wrong_plan_fails_the_run_with_the_reason(server, tmp_path):
    ended = run(server, "build-index", tmp_path / "gone.toml")
    assert ended.returncode != 0
    found = Api(server[0]).latest_run("build-index")
    assert found["state"]["type"] == "FAILED"
    assert "No plan" in found["state"]["message"]
    assert load_plan(str(small_plan(tmp_path))).workers == 1
