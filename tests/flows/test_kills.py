"""kill -9 in the middle of a shard, an epoch or a publish, of a run alone or with its worker; and a cancellation.

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
from tests.helpers.flow_server import STAGES, Server, await_, copied
from tests.helpers.forks import ROOT, Forked

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
KILLS = int(os.environ.get("TERN_TEST_KILLS", "3"))
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


def trained(workspace: Path) -> list[int]:
    """Epochs that are in the history of the model, if there is one."""
    rows = [line for path in workspace.glob("models/*/history.csv") for line in path.read_text().splitlines()[1:]]
    return [int(row.split(",")[0]) for row in rows]


@pytest.fixture
def noticed(server):
    """The seconds within which a crash is noticed: with the automations as shipped; in the plain test quicker ones,
    of the runs that are killed alone: a little more than the 30 s between two heartbeats, and 10 s until the next."""
    there = {a["name"]: a for a in server.post("/automations/filter", {})}
    crashed, again = yaml.safe_load((ROOT / "automations.yaml").read_text())["automations"]
    assert not there[again["name"]]["enabled"], "until someone wants it"
    if KILLS > 3:
        server.patch(f"/automations/{there[again['name']]['id']}", {"enabled": True})
        yield 120
        server.patch(f"/automations/{there[again['name']]['id']}", {"enabled": False})
        return
    made = []
    doomed = {"prefect.resource.role": "tag", "prefect.resource.id": f"prefect.tag.{DOOMED}"}
    for shipped, seconds in ((crashed, 35), (again, 10)):
        of = [shipped["trigger"].get("match_related"), doomed]
        trigger = shipped["trigger"] | {"within": seconds, "match_related": [each for each in of if each]}
        about = shipped | {"name": f"quick: {shipped['name']}", "enabled": True, "trigger": trigger}
        made.append(server.post("/automations/", about)["id"])
    yield 60
    for automation in made:
        server.delete(f"/automations/{automation}")


class Employer:
    """Deployments, each in a work pool of its own, whose worker a test may kill."""

    def __init__(self, server: Server):
        self._server, self.made, self.pools, self._hired, self._runs = server, [], [], [], []

    def hire(self, pool: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", pool, "--type", "process"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        env = self._server.env | {"PREFECT_WORKER_QUERY_SECONDS": "1", "PREFECT_PLUGINS_ENABLED": "false"}
        self._hired.append(subprocess.Popen(command, cwd=ROOT, env=env, **quiet))
        return self._hired[-1]

    def end(self) -> None:
        """Nothing of it is left, however the test has ended."""
        for worker in self._hired:
            if worker.poll() is None:  # these tests do not check how a worker ends
                os.killpg(worker.pid, signal.SIGKILL)
                worker.wait()
        for run in self._runs:
            for pid in processes(run):
                with suppress(ProcessLookupError):
                    os.kill(int(pid), signal.SIGKILL)
        for made in self.made:
            self._server.delete(f"/deployments/{made}")
        for pool in self.pools:
            self._server.delete(f"/work_pools/{pool}")

    def begin(self, stage: str, plan: Path) -> "Employed":
        name, local = stage.replace("_", "-"), self._server.get("/work_pools/local")
        self.pools.append(pool := f"{DOOMED}-{len(self.pools)}")
        self._server.post("/work_pools/", {"name": pool, **{k: local[k] for k in ("type", "base_job_template")}})
        deployed = self._server.get(f"/deployments/name/{name}/{name}")
        kept = ("flow_id", "entrypoint", "pull_steps", "parameter_openapi_schema")
        about = {"name": DOOMED, "work_pool_name": pool, **{key: deployed[key] for key in kept}}
        self.made.append(self._server.post("/deployments/", about)["id"])
        asked = {"parameters": {"plan": str(plan), "overrides": ["train.epochs=12"]}, "tags": [DOOMED]}
        self._runs.append(self._server.post(f"/deployments/{self.made[-1]}/create_flow_run", asked)["id"])
        return Employed(self.hire(pool), self._runs[-1])


@pytest.fixture
def employer(server):
    there = Employer(server)
    yield there
    there.end()


class Employed:
    """A run of a worker of its own; both are killed together, as with their machine."""

    def __init__(self, worker: subprocess.Popen, run: str):
        self._worker, self.run = worker, run

    def poll(self) -> int | None:
        return self._worker.poll()

    def kill(self) -> None:
        os.killpg(self._worker.pid, signal.SIGKILL)
        self._worker.wait()
        mine = processes(self.run)
        assert mine, "the worker's run is a process of its own"
        for pid in mine:
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        await_(lambda: not processes(self.run), 10, "a process is left")


@pytest.mark.timeout(120 + 200 * KILLS)
def test_killed_runs_are_noticed_and_the_next_takes_up_where_they_were(
    server, finished_pipeline, tmp_path, noticed, employer
):
    """Of a deployment's run that dies with its worker, the next is itself, begun by the automation."""
    chance, killed = random.Random(0), {}
    for number in range(KILLS):  # with their worker the first, the fifth and the ninth: a shard, an epoch, a publish
        stage = STAGES[number % 3]
        plan, workspace = copied(finished_pipeline.plan.workspace, tmp_path / f"kill-{number}", stage)
        process = begin(server, stage, plan, DOOMED) if number % 4 else employer.begin(stage, plan)
        while not middle(stage, workspace) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3) if KILLS > 3 else 0)
        process.kill()
        epochs = len(trained(workspace))
        killed[str(plan)] = (stage, workspace, kept(workspace), epochs, time.time(), getattr(process, "run", None))
    for plan, (stage, workspace, before, epochs, _, run) in killed.items():
        if run is None:
            assert begin(server, stage, Path(plan)).wait(120) == 0, (plan, stage)
            taken_up(stage, workspace, before)
            check(stage, workspace, finished_pipeline, server.runs(stage.replace("_", "-"))[0], server, 12 - epochs + 1)
    for pool in employer.pools:
        employer.hire(pool)
    named = [name.replace("_", "-") for name in STAGES]
    mine = {r["parameters"]["plan"]: r["id"] for name in named for r in server.runs(name) if DOOMED in r["tags"]}
    assert mine.keys() == killed.keys()
    for plan, (stage, workspace, before, _, when, run) in killed.items():
        crashed = lambda: [s for s in states(server, mine[plan]) if s["type"] == "CRASHED"]  # noqa: E731, B023
        (state,) = await_(crashed, noticed + 60, "a killed run was not noticed")
        assert "heartbeat" in state["message"]
        assert 0 < datetime.fromisoformat(state["timestamp"]).timestamp() - when <= noticed, stage
        if run:
            found = lambda: server.get(f"/flow_runs/{run}")  # noqa: E731, B023
            await_(lambda: found()["state_type"] == "COMPLETED", 240, "a crashed run was not restarted")  # noqa: B023
            assert found()["run_count"] == 2
            taken_up(stage, workspace, before)
            check(stage, workspace, finished_pipeline, found(), server, 12 + 1)


def states(server: Server, run: str) -> list[dict]:
    return server.get(f"/flow_run_states/?flow_run_id={run}")


def taken_up(stage: str, workspace: Path, before: dict[str, int]) -> None:
    now = kept(workspace)
    assert {path: now.get(path) for path in before} == before, f"{stage}: a shard is made once"


def check(stage: str, workspace: Path, finished_pipeline, run: dict, server: Server, epochs: int) -> None:
    """Check that the result of the second run is complete, and that it trained at most the given number of epochs."""
    if stage == "extract_flickr":
        for ours in (workspace / "stores").iterdir():
            assert Store(ours).ids == Store(finished_pipeline.plan.workspace / "stores" / ours.name).ids
    if stage == "train_tern":
        assert trained(workspace) == list(range(1, 13))
        done = [task["name"] for task in server.tasks(run) if task["name"].startswith("epoch")]
        assert len(done) <= epochs, "no more than the epoch that was being trained is repeated"
    if stage == "build_index":
        assert verify_version(workspace / "index")


def test_cancelled_runs_take_their_processes_with_them_and_leave_stores_and_model_whole(
    server, finished_pipeline, tmp_path
):
    """An extraction, and a training that begins while the extraction is ended."""
    settings, begun = ["images_per_shard=2", "train.epochs=60"], {}
    for stage in STAGES[:2]:
        name, (plan, workspace) = (
            stage.replace("_", "-"),
            copied(finished_pipeline.plan.workspace, tmp_path / stage, stage),
        )
        deployment = server.get(f"/deployments/name/{name}/{name}")["id"]
        asked = {"name": "mine", "parameters": {"plan": str(plan), "overrides": settings}}
        begun[stage] = (server.post(f"/deployments/{deployment}/create_flow_run", asked)["id"], plan, workspace)
        ready = lambda: middle(stage, workspace) and (stage != "train_tern" or len(trained(workspace)) > 5)  # noqa: E731, B023
        await_(ready, 90, f"{stage} did not begin")
        server.post(f"/flow_runs/{begun[stage][0]}/set_state", {"state": {"type": "CANCELLING"}})
    for stage, (run, plan, workspace) in begun.items():
        state = lambda: server.get(f"/flow_runs/{run}")["state"]["type"]  # noqa: E731, B023
        await_(lambda: state() == "CANCELLED", 60, f"{stage} was not cancelled")  # noqa: B023
        named = server.get(f"/flow_runs/{run}")["name"]
        assert re.fullmatch(rf"{stage.replace('_', '-')} demo [\d :-]+", named), "Prefect drops a name that was given"
        await_(lambda: not processes(run), 30, "a process is left")  # noqa: B023
        before = kept(workspace)
        assert before
        epochs = len(trained(workspace))
        code = f"import sys; from flows import flows; flows.{stage}(sys.argv[1], {settings})"
        ended = server.python(code, str(plan))
        assert ended.returncode == 0, ended.stderr
        taken_up(stage, workspace, before)
    workspace = begun["extract_flickr"][2]
    for ours in (workspace / "stores").iterdir():
        assert Store(ours).ids == Store(finished_pipeline.plan.workspace / "stores" / ours.name).ids
    assert trained(begun["train_tern"][2]) == list(range(1, 61))
    again = [task["name"] for task in server.tasks(server.runs("train-tern")[0]) if task["name"].startswith("epoch")]
    assert len(again) <= 60 - epochs, "no epoch is trained twice whose end was kept"


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


def test_the_shipped_automations_wait_for_three_heartbeats_end_and_have_no_key_that_is_dropped():
    from prefect.events.schemas.automations import AutomationCore

    from flows.server.environment import AUTOMATIONS, PREFECT_SETTINGS

    crashed, again = yaml.safe_load((ROOT / AUTOMATIONS).read_text())["automations"]
    for entry in (crashed, again):
        assert set(entry) <= set(AutomationCore.model_fields)
        made = AutomationCore.model_validate(entry)
        for told, model in ((entry["trigger"], made.trigger), *zip(entry["actions"], made.actions, strict=True)):
            assert set(told) <= set(type(model).model_fields)
    frequency = int(PREFECT_SETTINGS["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"])
    assert crashed["trigger"]["within"] == 3 * frequency <= 120
    assert crashed["name"] == "mark-runs-without-heartbeat-crashed"
    assert again["trigger"]["match"]["prefect.run-count"] == ["1", "2"], "otherwise it would be restarted forever"
