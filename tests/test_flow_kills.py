"""kill -9 in the middle of a shard, an epoch or a publish, of a run alone or with its worker; and a cancellation.

`make test-faults` kills ten runs; the plain test three.
"""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from data.store import Store
from index import verify
from tests.flow_fork import ROOT, Forked
from tests.flow_server import STAGES, Server, await_, copied

prefect = pytest.importorskip("prefect")
KILLS = int(os.environ.get("TERN_FAULTS", "3"))
DOOMED = "doomed"  # tag of the runs that are killed


def begin(server: Server, stage: str, plan: Path, *tags: str) -> Forked:
    """A flow in a process of its own, which leads a group."""
    code = "import sys; from prefect import tags; from flows import flows\nwith tags(*sys.argv[2:]): "
    code += f"flows.{stage}(sys.argv[1], ['train.epochs=12'])"
    return server.forks.begin(code, str(plan), *tags)


def middle(stage: str, workspace: Path) -> bool:
    """Whether a stage is in the middle of its work, by what lies on the disk."""
    found = {
        "extract_flickr": lambda: kept(workspace),
        "train_tern": lambda: list(workspace.glob("models/*/history.csv")),
        "build_index": lambda: [path for path in workspace.glob("index/*") if path.name != ".writer"],
    }
    return bool(found[stage]())


def kept(workspace: Path) -> dict[str, int]:
    """Shards that are there, with the time they were written; not the halves of killed writers, named with a dot."""
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("stores/*/[!.]*.h5")}


@pytest.fixture
def noticed(server, tmp_path):
    """The seconds within which a crash is noticed: as shipped; in the plain test less than the 30 s between two
    heartbeats, and of the runs that are killed alone, so that no healthy one is taken for crashed."""
    if KILLS > 3:
        yield 120
        return
    shipped = yaml.safe_load((ROOT / "automations.yaml").read_text())["automations"][0]
    doomed = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{DOOMED}"}
    trigger = shipped["trigger"] | {"within": 25, "match_related": doomed}
    made = server.post("/automations/", shipped | {"name": "quick", "trigger": trigger})
    yield 45
    server.delete(f"/automations/{made['id']}")


@pytest.fixture
def employer(server):
    """A deployment of extract-flickr in a work pool of its own, whose worker a test may kill."""
    deployed = server.get("/deployments/name/extract-flickr/extract-flickr")
    kept = ("flow_id", "entrypoint", "pull_steps", "parameter_openapi_schema")
    pool = server.get("/work_pools/local")
    server.post("/work_pools/", {"name": DOOMED, **{key: pool[key] for key in ("type", "base_job_template")}})
    made = server.post(
        "/deployments/", {"name": DOOMED, "work_pool_name": DOOMED, **{key: deployed[key] for key in kept}}
    )
    yield made["id"]
    server.delete(f"/deployments/{made['id']}")
    server.delete(f"/work_pools/{DOOMED}")


class Employed:
    """A run of a worker of its own; both are killed together, as with their machine."""

    def __init__(self, server: Server, deployment: str, plan: Path):
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", DOOMED, "--type", "process"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        env = server.env | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_PLUGINS_ENABLED": "false"}
        self._worker = subprocess.Popen(command, cwd=ROOT, env=env, **quiet)
        asked = {"parameters": {"plan": str(plan)}, "tags": [DOOMED]}
        self._run = server.post(f"/deployments/{deployment}/create_flow_run", asked)["id"]

    def poll(self) -> int | None:
        return self._worker.poll()

    def kill(self) -> None:
        os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()
        mine = processes(self._run)
        assert mine, "the worker's run is a process of its own"
        for pid in mine:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        await_(lambda: not processes(self._run), 10, "a process is left")


@pytest.mark.timeout(60 + 90 * max(KILLS, 3))
def test_killed_runs_are_noticed_and_the_next_takes_up_where_they_were(server, finished, tmp_path, noticed, employer):
    chance, killed = random.Random(0), []
    for number in range(KILLS):  # the first with its worker
        stage = STAGES[number % 3]
        plan, workspace = copied(finished.plan.workspace, tmp_path / f"kill-{number}", stage)
        process = begin(server, stage, plan, DOOMED) if number else Employed(server, employer, plan)
        while not middle(stage, workspace) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3) if KILLS > 3 else 0)
        process.kill()
        history = next(workspace.glob("models/*/history.csv"), None)
        epochs = len(history.read_text().splitlines()) - 1 if history else 0
        killed.append((stage, plan, workspace, kept(workspace), epochs, time.time()))
    for stage, plan, workspace, before, epochs, _ in killed:
        again = begin(server, stage, plan)
        assert again.wait(120) == 0, (plan, stage)
        assert {path: time for path, time in kept(workspace).items() if path in before} == before, "made once"
        check(stage, workspace, finished, server, epochs)
    mine = lambda: [r for name in STAGES for r in server.runs(name.replace("_", "-")) if DOOMED in r["tags"]]  # noqa: E731
    await_(lambda: "RUNNING" not in {r["state_type"] for r in mine()}, noticed, "a killed run was not noticed")
    ends = [r["state"] for r in mine() if r["state_type"] == "CRASHED" and "heartbeat" in r["state"]["message"]]
    at = sorted(datetime.fromisoformat(state["timestamp"]).timestamp() for state in ends)
    late = [crashed - when for crashed, when in zip(at, sorted(when for *_, when in killed), strict=True)]
    assert max(late) <= noticed, late


def check(stage: str, workspace: Path, finished, server: Server, epochs: int) -> None:
    """What the second run left is whole, and it did not begin again."""
    if stage == "extract_flickr":
        for ours in (workspace / "stores").iterdir():
            assert Store(ours).ids == Store(finished.plan.workspace / "stores" / ours.name).ids
    if stage == "train_tern":
        rows = next(workspace.glob("models/*/history.csv")).read_text().splitlines()[1:]
        assert [int(row.split(",")[0]) for row in rows] == list(range(1, 13))
        run = server.runs("train-tern")[0]
        done = sorted(task["name"] for task in server.tasks(run) if task["name"].startswith("epoch"))
        assert len(done) <= 12 - epochs + 1, "no more than the epoch that was being trained is repeated"
    if stage == "build_index":
        assert verify(workspace / "index")


def test_a_cancelled_run_takes_its_processes_with_it_and_leaves_the_stores_whole(server, finished, tmp_path):
    plan, workspace = copied(finished.plan.workspace, tmp_path / "cancelled", "extract_flickr")
    deployment = server.get("/deployments/name/extract-flickr/extract-flickr")["id"]
    asked = {"parameters": {"plan": str(plan), "images_per_shard": 2}}
    run = server.post(f"/deployments/{deployment}/create_flow_run", asked)
    await_(lambda: kept(workspace), 90, "no shard was made")
    server.post(f"/flow_runs/{run['id']}/set_state", {"state": {"type": "CANCELLING"}})
    state = lambda: server.get(f"/flow_runs/{run['id']}")["state"]["type"]  # noqa: E731
    await_(lambda: state() == "CANCELLED", 60, "not cancelled")
    await_(lambda: not processes(run["id"]), 30, "a process is left")
    before = kept(workspace)
    assert before
    ended = server.python(
        "import sys; from flows import flows; flows.extract_flickr(sys.argv[1], images_per_shard=2)", str(plan)
    )
    assert ended.returncode == 0, ended.stderr
    after = kept(workspace)
    assert {path: after[path] for path in before} == before
    for ours in (workspace / "stores").iterdir():
        assert Store(ours).ids == Store(finished.plan.workspace / "stores" / ours.name).ids


def processes(run: str) -> list[str]:
    """Processes that belong to a run: they carry its id in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_the_shipped_automation_waits_for_three_heartbeats_and_has_no_key_that_is_dropped():
    from prefect.events.schemas.automations import AutomationCore

    from flows.server import AUTOMATIONS, QUIET

    (entry,) = yaml.safe_load((ROOT / AUTOMATIONS).read_text())["automations"]
    assert entry["name"] == "a run without a heartbeat has crashed"
    assert set(entry) <= set(AutomationCore.model_fields)
    made = AutomationCore.model_validate(entry)
    assert set(entry["trigger"]) <= set(type(made.trigger).model_fields)
    assert made.trigger.within.total_seconds() == 3 * int(QUIET["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= 120
