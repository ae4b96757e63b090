"""What a run survives: lost workers, kill -9 in the middle of a shard, an epoch or a publish, a cancellation.

`make test-faults` kills ten runs; the plain test three.
"""

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from data.store import Store
from index import RefusedError, verify
from tests.conftest import small_plan
from tests.flow_jobs import counted
from tests.flow_server import ROOT, Server, await_

prefect = pytest.importorskip("prefect")
KILLS = int(os.environ.get("TERN_FAULTS", "3"))
STAGES = ["extract_flickr", "train_tern", "build_index"]


@pytest.mark.parametrize(
    ("error", "again"),
    [
        (BrokenExecutor("a worker died"), True),
        (BlockingIOError(11, "busy"), True),
        (OSError(5, "input/output error"), True),
        (OSError(28, "no space left"), False),
        (ValueError("a bad plan"), False),
        (FileNotFoundError(2, "no such file"), False),
        (TimeoutError("too slow"), False),
    ],
)
def test_what_can_pass_is_tried_again_and_what_cannot_is_not(error, again):
    from flows.pools import can_pass

    assert can_pass(error) is again


def test_a_job_past_its_time_is_stopped_and_the_pool_works_on(tmp_path):
    from flows.pools import Workers

    began = time.monotonic()
    with Workers([tmp_path], 1, seconds=8) as pool:
        with pytest.raises(TimeoutError, match="make shards smaller"):
            pool.run(counted, tmp_path / "slow")
        assert pool.run(counted, tmp_path / "good") == "good"
    assert time.monotonic() - began < 50


RETRIED = """
import sys
from pathlib import Path
from prefect import flow
import flows.tasks
from tests.flow_jobs import counted

flows.tasks.shard = flows.tasks.shard.with_options(retry_delay_seconds=[0.1] * 3)

@flow
def faults(folder: str, names: list[str]):
    each = flows.tasks.as_tasks(2, "demo")("region features")
    return each(counted, [Path(folder) / name for name in names])

if __name__ == "__main__":
    faults(sys.argv[1], sys.argv[2].split(","))
"""


def test_lost_workers_and_busy_disks_are_tried_again_bad_input_once(server, tmp_path):
    ended = server.python(RETRIED, str(tmp_path), "dies-once,good,busy-once")
    assert ended.returncode == 0, ended.stderr
    assert len((tmp_path / "busy-once").read_text().splitlines()) == 2
    ended = server.python(RETRIED, str(tmp_path), "bad")
    assert ended.returncode != 0
    assert len((tmp_path / "bad").read_text().splitlines()) == 1, "bad input is not tried again"


DOOMED = "doomed"  # tag of the runs that are killed


def begin(server: Server, stage: str, plan: Path, *tags: str) -> subprocess.Popen:
    """A flow in a process of its own, as a worker starts it."""
    code = "import sys; from prefect import tags; from flows import flows\nwith tags(*sys.argv[2:]): "
    code += f"flows.{stage}(sys.argv[1], ['train.epochs=12'])"
    command = [sys.executable, "-c", code, str(plan), *tags]
    return subprocess.Popen(
        command, cwd=ROOT, env=server.env, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def middle(stage: str, workspace: Path) -> bool:
    """Whether a stage is in the middle of its work, by what lies on the disk."""
    found = {
        "extract_flickr": lambda: kept(workspace),
        "train_tern": lambda: list(workspace.glob("models/*/history.csv")),
        "build_index": lambda: [path for path in workspace.glob("index/*") if path.name != ".writer"],
    }
    return bool(found[stage]())


def copied(finished, folder: Path, stage: str) -> tuple[Path, Path]:
    """(plan, workspace) in which a stage stands before its work."""
    folder.mkdir()
    parts = ["dataset", "stores", "models", "vectors"][: 1 + STAGES.index(stage)]
    for part in parts:
        shutil.copytree(finished.plan.workspace / part, folder / "run" / part)
    return small_plan(folder, workers=2), folder / "run"


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
    quick = shipped | {"name": "quick", "trigger": shipped["trigger"] | {"within": 25, "match_related": doomed}}
    (tmp_path / "quick.yaml").write_text(yaml.safe_dump({"automations": [quick]}))
    assert server.prefect("automation", "create", "--from-file", str(tmp_path / "quick.yaml")).returncode == 0
    yield 45
    assert server.prefect("automation", "delete", "quick").returncode == 0


@pytest.mark.timeout(60 + 90 * max(KILLS, 3))
def test_killed_runs_are_noticed_and_the_next_takes_up_where_they_were(server, finished, tmp_path, noticed):
    chance, killed = random.Random(0), []
    for number in range(KILLS):
        stage = STAGES[number % 3]
        plan, workspace = copied(finished, tmp_path / f"kill-{number}", stage)
        process = begin(server, stage, plan, DOOMED)
        while not middle(stage, workspace) and process.poll() is None:
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.3) if KILLS > 3 else 0)
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        before, at = kept(workspace), time.time()
        history = next(workspace.glob("models/*/history.csv"), None)
        epochs = len(history.read_text().splitlines()) - 1 if history else 0
        again = begin(server, stage, plan)
        assert again.wait(120) == 0, (number, stage)
        assert {path: time for path, time in kept(workspace).items() if path in before} == before, "made once"
        killed.append((stage, at))
        check(stage, workspace, finished, server, epochs)
    for stage, at in killed:
        name = stage.replace("_", "-")
        gone = lambda name=name: not [r for r in server.runs(name) if r["state"]["type"] == "RUNNING"]  # noqa: E731
        await_(gone, max(1.0, noticed - (time.time() - at)), f"{stage}: the killed run was not noticed in time")
    ended = [run["state"] for name in STAGES for run in server.runs(name.replace("_", "-"))]
    assert len([s for s in ended if s["type"] == "CRASHED" and "heartbeat" in s["message"]]) == KILLS


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
    plan, workspace = copied(finished, tmp_path / "cancelled", "extract_flickr")
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


def test_a_failure_is_told_to_a_command_and_one_that_fails_itself_changes_nothing(tmp_path, monkeypatch):
    from flows.hooks import tell

    told = tmp_path / "told.json"
    run, state = SimpleNamespace(name="reindex demo", id=1), SimpleNamespace(name="Failed", message="recall 0.71")
    script = tmp_path / "tell.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write(input())")
    monkeypatch.setenv("TERN_ON_FAILURE", f"{sys.executable} {script} {told}")
    tell(flow=SimpleNamespace(name="reindex"), flow_run=run, state=state)
    assert json.loads(told.read_text())["message"] == "recall 0.71"
    monkeypatch.setenv("TERN_ON_FAILURE", "/nobody/here")
    tell(flow=SimpleNamespace(name="reindex"), flow_run=run, state=state)


@pytest.mark.parametrize(
    ("error", "reports"),
    [
        (RefusedError("version 2 did not pass its gate: recall", 2, {}), 1),
        (ValueError("the index is being written by process 7"), 0),
        (FileNotFoundError("no index"), 0),
    ],
)
def test_only_what_the_gate_refused_is_shown_as_refused(error, reports, monkeypatch, tmp_path):
    from flows import flows

    class Chain:
        vectors, plan = None, SimpleNamespace(workspace=tmp_path)

        @property
        def index(self):
            raise error

    shown = []
    monkeypatch.setattr(flows.artifacts, "refused", lambda *told: shown.append(told))
    monkeypatch.setattr(flows, "get_run_logger", logging.getLogger)
    with pytest.raises(type(error)):
        flows._publish(Chain())
    assert len(shown) == reports


def test_the_shipped_automation_waits_for_three_heartbeats_and_has_no_key_that_is_dropped():
    from prefect.events.schemas.automations import AutomationCore

    from flows.server import AUTOMATIONS, QUIET

    (entry,) = yaml.safe_load((ROOT / AUTOMATIONS).read_text())["automations"]
    assert entry["name"] == "a run without a heartbeat has crashed"
    assert set(entry) <= set(AutomationCore.model_fields)
    made = AutomationCore.model_validate(entry)
    assert set(entry["trigger"]) <= set(type(made.trigger).model_fields)
    assert made.trigger.within.total_seconds() == 3 * int(QUIET["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) <= 120
