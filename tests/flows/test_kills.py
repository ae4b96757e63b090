"""Runs killed by SIGKILL during a shard, an epoch or a publish, alone or with their worker; and cancelled runs.

`make test-faults` kills ten runs; the plain test three.
"""

import os
import random
import re
import signal
import subprocess
import sys
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import pytest
import yaml

from data.store.store import Store
from index.versions.switch import verify_version
from tests.helpers.flow_server import STAGES, Server, copy_workspace, wait_until
from tests.helpers.forks import ROOT, Forked
from tests.helpers.repeats import RUN_KILLS

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
KILLED_TAG = "killed-by-test"  # tag of the runs that are killed


def start_flow(server: Server, stage: str, plan: Path, *tags: str) -> Forked:
    """Start a flow in a new process group."""
    code = "import sys; from prefect import tags; from flows import flows\nwith tags(*sys.argv[2:]): "
    code += f"flows.{stage}(sys.argv[1], ['train.epochs=12'])"
    return server.forks.begin(code, str(plan), *tags)


def has_started(stage: str, workspace: Path) -> bool:
    """Return whether a stage has begun to write its results."""
    files_by_stage = {
        "extract_flickr": lambda: list_shards(workspace),
        "train_tern": lambda: list(workspace.glob("models/*/history.csv")),
        "build_index": lambda: [path for path in workspace.glob("index/*") if path.name != ".writer"],
    }
    return bool(files_by_stage[stage]())


def list_shards(workspace: Path) -> dict[str, int]:
    """List the complete shards with the time of writing; names of unfinished files begin with a dot."""
    return {str(path): path.stat().st_mtime_ns for path in workspace.glob("stores/*/[!.]*.h5")}


def list_epochs(workspace: Path) -> list[int]:
    """List the epochs in the history of the model; none without a model."""
    rows = [line for path in workspace.glob("models/*/history.csv") for line in path.read_text().splitlines()[1:]]
    return [int(row.split(",")[0]) for row in rows]


@pytest.fixture
def max_detection_seconds(server):
    """Provide the number of seconds within which a crash must be detected.

    `make test-faults` uses the shipped automations. The plain test uses faster ones, which only match the runs that are
    killed here: they wait a little longer than the 30 s between two heartbeats, and 10 s until the restart.
    """
    automations = {a["name"]: a for a in server.post("/automations/filter", {})}
    crashed, restart = yaml.safe_load((ROOT / "automations.yaml").read_text())["automations"]
    assert not automations[restart["name"]]["enabled"], "disabled until a user enables it"
    if RUN_KILLS > 3:
        server.patch(f"/automations/{automations[restart['name']]['id']}", {"enabled": True})
        yield 120
        server.patch(f"/automations/{automations[restart['name']]['id']}", {"enabled": False})
        return
    created = []
    related_tag = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{KILLED_TAG}"}
    for shipped, wait_seconds in ((crashed, 35), (restart, 10)):
        related = [shipped["trigger"].get("match_related"), related_tag]
        trigger = shipped["trigger"] | {"within": wait_seconds, "match_related": [tag for tag in related if tag]}
        body = shipped | {"name": f"quick: {shipped['name']}", "enabled": True, "trigger": trigger}
        created.append(server.post("/automations/", body)["id"])
    yield 60
    for automation in created:
        server.delete(f"/automations/{automation}")


class Deployments:
    """Deployments, each in its own work pool, whose worker a test may kill."""

    def __init__(self, server: Server):
        self._server, self.ids, self.pools, self._workers, self._runs = server, [], [], [], []

    def start_worker(self, pool: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        options = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        env = self._server.env | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_PLUGINS_ENABLED": "false"}
        self._workers.append(subprocess.Popen(command, cwd=ROOT, env=env, **options))
        return self._workers[-1]

    def close(self) -> None:
        """Delete the deployments and pools and kill all processes, whether the test passed or not."""
        for worker in self._workers:
            if worker.poll() is None:  # these tests do not check how a worker ends
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        for run in self._runs:
            for pid in list_processes(run):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for deployment_id in self.ids:
            self._server.delete(f"/deployments/{deployment_id}")
        for pool in self.pools:
            self._server.delete(f"/work_pools/{pool}")

    def start_run(self, stage: str, plan: Path) -> "DeployedRun":
        name, pool_template = stage.replace("_", "-"), self._server.get("/work_pools/local")
        self.pools.append(pool := f"{KILLED_TAG}-{len(self.pools)}")
        self._server.post(
            "/work_pools/", {"name": pool, **{k: pool_template[k] for k in ("type", "base_job_template")}}
        )
        deployment = self._server.get(f"/deployments/name/{name}/{name}")
        fields = ("flow_id", "entrypoint", "pull_steps", "parameter_openapi_schema")
        body = {"name": KILLED_TAG, "work_pool_name": pool, **{key: deployment[key] for key in fields}}
        self.ids.append(self._server.post("/deployments/", body)["id"])
        request = {"parameters": {"plan": str(plan), "overrides": ["train.epochs=12"]}, "tags": [KILLED_TAG]}
        self._runs.append(self._server.post(f"/deployments/{self.ids[-1]}/create_flow_run", request)["id"])
        return DeployedRun(self.start_worker(pool), self._runs[-1])


@pytest.fixture
def deployments(server):
    created = Deployments(server)
    yield created
    created.close()


class DeployedRun:
    """A run and its worker; both are killed together, as by a power failure."""

    def __init__(self, worker: subprocess.Popen, run: str):
        self._worker, self.run = worker, run

    def poll(self) -> int | None:
        return self._worker.poll()

    def kill(self) -> None:
        os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()
        pids = list_processes(self.run)
        assert pids, "the worker runs the flow in another process"
        for pid in pids:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        wait_until(lambda: not list_processes(self.run), 10, "a process is left")


@pytest.mark.timeout(120 + 200 * RUN_KILLS)
def test_killed_runs_are_detected_and_the_next_run_resumes_them(
    server, finished_pipeline, tmp_path, max_detection_seconds, deployments
):
    """A run killed alone is followed by a new run; the automation restarts one that was killed with its worker."""
    rng, killed = random.Random(0), {}
    for number in range(RUN_KILLS):  # numbers 0, 4 and 8 (a shard, an epoch, a publish) are killed with their worker
        stage = STAGES[number % 3]
        plan, workspace = copy_workspace(finished_pipeline.plan.workspace, tmp_path / f"kill-{number}", stage)
        process = start_flow(server, stage, plan, KILLED_TAG) if number % 4 else deployments.start_run(stage, plan)
        while not has_started(stage, workspace) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.3) if RUN_KILLS > 3 else 0)
        process.kill()
        epochs = len(list_epochs(workspace))
        killed[str(plan)] = (
            stage,
            workspace,
            list_shards(workspace),
            epochs,
            time.time(),
            getattr(process, "run", None),
        )
    for plan, (stage, workspace, shards_before, epochs, _, run) in killed.items():
        if run is None:
            assert start_flow(server, stage, Path(plan)).wait(120) == 0, (plan, stage)
            check_shards_are_unchanged(stage, workspace, shards_before)
            check_result(
                stage, workspace, finished_pipeline, server.runs(stage.replace("_", "-"))[0], server, 12 - epochs + 1
            )
    for pool in deployments.pools:
        deployments.start_worker(pool)
    flow_names = [name.replace("_", "-") for name in STAGES]
    run_ids = {
        r["parameters"]["plan"]: r["id"] for name in flow_names for r in server.runs(name) if KILLED_TAG in r["tags"]
    }
    assert run_ids.keys() == killed.keys()
    for plan, (stage, workspace, shards_before, _, kill_time, run) in killed.items():
        list_crashes = lambda: [s for s in list_states(server, run_ids[plan]) if s["type"] == "CRASHED"]  # noqa: E731, B023
        # The first one: on a busy machine, the heartbeats of a restarted run can be late too.
        state = wait_until(list_crashes, max_detection_seconds + 60, "a killed run was not detected")[0]
        assert "heartbeat" in state["message"]
        assert 0 < datetime.fromisoformat(state["timestamp"]).timestamp() - kill_time <= max_detection_seconds, stage
        if run:
            get_run = lambda: server.get(f"/flow_runs/{run}")  # noqa: E731, B023
            wait_until(lambda: get_run()["state_type"] == "COMPLETED", 240, "a crashed run was not restarted")  # noqa: B023
            assert get_run()["run_count"] == 2
            check_shards_are_unchanged(stage, workspace, shards_before)
            check_result(stage, workspace, finished_pipeline, get_run(), server, 12 + 1)


def list_states(server: Server, run: str) -> list[dict]:
    return server.get(f"/flow_run_states/?flow_run_id={run}")


def check_shards_are_unchanged(stage: str, workspace: Path, before: dict[str, int]) -> None:
    after = list_shards(workspace)
    assert {path: after.get(path) for path in before} == before, f"{stage}: a shard was written twice"


def check_result(stage: str, workspace: Path, finished_pipeline, run: dict, server: Server, epochs: int) -> None:
    """Check that the result of the second run is complete, and that at most the given number of epochs was trained."""
    if stage == "extract_flickr":
        for ours in (workspace / "stores").iterdir():
            assert Store(ours).ids == Store(finished_pipeline.plan.workspace / "stores" / ours.name).ids
    if stage == "train_tern":
        assert list_epochs(workspace) == list(range(1, 13))
        done = [task["name"] for task in server.tasks(run) if task["name"].startswith("epoch")]
        assert len(done) <= epochs, "at most the interrupted epoch is repeated"
    if stage == "build_index":
        assert verify_version(workspace / "index")


def test_cancelled_runs_end_their_processes_and_the_next_run_resumes_them(server, finished_pipeline, tmp_path):
    """Cancel an extraction, and a training that starts while the extraction ends."""
    settings, started = ["images_per_shard=2", "train.epochs=60"], {}
    for stage in STAGES[:2]:
        name, (plan, workspace) = (
            stage.replace("_", "-"),
            copy_workspace(finished_pipeline.plan.workspace, tmp_path / stage, stage),
        )
        deployment = server.get(f"/deployments/name/{name}/{name}")["id"]
        request = {"name": "mine", "parameters": {"plan": str(plan), "overrides": settings}}
        started[stage] = (server.post(f"/deployments/{deployment}/create_flow_run", request)["id"], plan, workspace)
        wait_until(lambda: has_started(stage, workspace), 90, f"{stage} did not begin")  # noqa: B023
        if stage == "train_tern":
            wait_until(lambda: len(list_epochs(workspace)) > 5, 90, "the sixth epoch did not end")  # noqa: B023
        server.post(f"/flow_runs/{started[stage][0]}/set_state", {"state": {"type": "CANCELLING"}})
    for stage, (run, plan, workspace) in started.items():
        state = lambda: server.get(f"/flow_runs/{run}")["state"]["type"]  # noqa: E731, B023
        wait_until(lambda: state() == "CANCELLED", 60, f"{stage} was not cancelled")  # noqa: B023
        run_name = server.get(f"/flow_runs/{run}")["name"]
        assert re.fullmatch(rf"{stage.replace('_', '-')} demo [\d :-]+", run_name), "Prefect ignores the requested name"
        wait_until(lambda: not list_processes(run), 30, "a process is left")  # noqa: B023
        shards_before = list_shards(workspace)
        assert shards_before
        epochs = len(list_epochs(workspace))
        code = f"import sys; from flows import flows; flows.{stage}(sys.argv[1], {settings})"
        process = server.python(code, str(plan))
        assert process.returncode == 0, process.stderr
        check_shards_are_unchanged(stage, workspace, shards_before)
    workspace = started["extract_flickr"][2]
    for folder in (workspace / "stores").iterdir():
        assert Store(folder).ids == Store(finished_pipeline.plan.workspace / "stores" / folder.name).ids
    assert list_epochs(started["train_tern"][2]) == list(range(1, 61))
    epoch_tasks = [
        task["name"] for task in server.tasks(server.runs("train-tern")[0]) if task["name"].startswith("epoch")
    ]
    assert len(epoch_tasks) <= 60 - epochs, "no finished epoch is repeated"


def list_processes(run: str) -> list[str]:
    """List the processes of a run, which have its id in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if f"PREFECT__FLOW_RUN_ID={run}".encode() in path.read_bytes():
                found.append(path.parent.name)
        except OSError:
            continue
    return found


def test_shipped_automations_have_only_known_keys_and_a_limit_of_three_heartbeats():
    from prefect.events.schemas.automations import AutomationCore

    from flows.server.environment import AUTOMATIONS, PREFECT_SETTINGS

    crashed, restart = yaml.safe_load((ROOT / AUTOMATIONS).read_text())["automations"]
    for entry in (crashed, restart):
        assert set(entry) <= set(AutomationCore.model_fields)
        automation = AutomationCore.model_validate(entry)
        for fields, model in (
            (entry["trigger"], automation.trigger),
            *zip(entry["actions"], automation.actions, strict=True),
        ):
            assert set(fields) <= set(type(model).model_fields)
    frequency = int(PREFECT_SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert crashed["trigger"]["within"] == 3 * frequency <= 120
    assert crashed["name"] == "mark-runs-without-heartbeat-crashed"
    assert restart["trigger"]["match"]["prefect.run-count"] == ["1", "2"], "otherwise it would be restarted forever"
