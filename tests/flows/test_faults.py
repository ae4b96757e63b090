"""Retries of flows, one task per GPU, progress, and the command that runs after a failure."""

import json
import logging
import os
import re
import sys
import time
from concurrent.futures import BrokenExecutor
from contextlib import ExitStack, nullcontext
from types import SimpleNamespace

import pytest

from data.io.locks import WriteLockError, write_lock
from index.versions.switch import RejectedError, verify_version
from index.versions.verdict import GateVerdict
from pipeline.workspace import Workspace
from tests.helpers.flow_jobs import run_counted
from tests.helpers.flow_server import copy_workspace, wait_until

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (BrokenExecutor("a worker died"), True),
        (BlockingIOError(11, "busy"), True),
        (OSError(5, "input/output error"), True),
        (OSError(16, "resource busy"), True),
        (OSError(110, "the mount timed out"), True),  # a TimeoutError to Python
        (OSError(28, "no space left"), False),
        (ValueError("a bad plan"), False),
        (FileNotFoundError(2, "no such file"), False),
        (TimeoutError("too slow"), False),
    ],
)
def test_is_retryable_accepts_only_transient_errors(error, expected):
    from flows.tasks.retries import is_retryable

    assert is_retryable(error) is expected


def test_job_over_its_time_limit_is_stopped_and_the_pool_continues(tmp_path):
    from flows.tasks.worker_pool import WorkerPool

    start = time.monotonic()
    with WorkerPool([tmp_path], 1, timeout_seconds=4) as pool:
        with pytest.raises(TimeoutError, match="Set a smaller `images_per_shard`"):
            pool.run(run_counted, tmp_path / "slow")
        assert pool.run(run_counted, tmp_path / "good") == "good"
    assert time.monotonic() - start < 50


def test_job_over_its_time_limit_kills_its_own_pool_and_not_the_replacement(monkeypatch):
    from flows.tasks import worker_pool as pools
    from flows.tasks.worker_pool import WorkerPool

    class Pool:
        def __init__(self):
            self.killed, self._processes = [], {1: SimpleNamespace(kill=lambda: self.killed.append(1))}

        def submit(self, function, job):
            return self

        def result(self, seconds):
            workers._pool = new_pool  # meanwhile another job lost its worker and got a new pool
            raise TimeoutError

        def done(self):
            return False

    old_pool, new_pool = Pool(), Pool()
    monkeypatch.setattr(pools, "open_pool", lambda jobs, workers: nullcontext(old_pool))
    workers = WorkerPool([1], 1, timeout_seconds=1)
    with pytest.raises(TimeoutError, match="Set a smaller `images_per_shard`"):
        workers.run(run_counted, 1)
    assert (old_pool.killed, new_pool.killed) == ([1], [])


def test_retry_waits_for_a_locked_store_and_finally_names_the_writer(tmp_path, monkeypatch):
    from flows.tasks import retries
    from flows.tasks.retries import LOCK_POLL_SECONDS, retry, wait_for_lock

    def write() -> str:
        with write_lock(tmp_path):
            return "written"

    other_writer = ExitStack()
    other_writer.enter_context(write_lock(tmp_path))
    sleeps = []
    monkeypatch.setattr(
        retries.time, "sleep", lambda seconds: sleeps.append(seconds) or len(sleeps) < 3 or other_writer.close()
    )
    assert retry("publishing", write) == "written"
    assert sleeps == [LOCK_POLL_SECONDS] * 3
    monkeypatch.setenv("TERN_LOCK_TIMEOUT_MINUTES", "0")
    with write_lock(tmp_path), pytest.raises(WriteLockError, match=f"is being written by process {os.getpid()}"):
        wait_for_lock("publishing", write)


RETRY_CODE = """
import sys
from pathlib import Path
from prefect import flow
import flows.tasks.shards
from tests.helpers.flow_jobs import run_counted

flows.tasks.shards.UPDATE_SECONDS = 0
flows.tasks.shards.shard = flows.tasks.shards.shard.with_options(retry_delay_seconds=[0.1] * 3)

@flow
def faults(folder: str, names: list[str]):
    # One worker per job: the order of the jobs is not defined.
    map_fn = flows.tasks.shards.make_task_map_factory(3, "demo")("region features")
    return map_fn(run_counted, [Path(folder) / name for name in names])

faults(sys.argv[1], sys.argv[2].split(","))
"""


def test_shards_are_retried_after_lost_workers_and_busy_disks_but_not_after_bad_input(server, tmp_path):
    process = server.python(RETRY_CODE, str(tmp_path), "dies-once,good,busy-once")
    assert process.returncode == 0, process.stderr
    assert len((tmp_path / "busy-once").read_text().splitlines()) == 2
    process = server.python(RETRY_CODE, str(tmp_path), "bad,good")
    assert process.returncode != 0
    assert len((tmp_path / "bad").read_text().splitlines()) == 1, "bad input is not retried"
    artifact = server.artifacts(server.runs("faults")[0])["region-features-progress"]
    assert artifact["data"] == 50, "a failed job does not count as done"
    assert re.search(r", [\d,.]+ items per second, 0 s left, 1 failed$", artifact["description"])


def test_progress_of_a_stage_is_updated_during_its_run(server, tmp_path):
    names, runs_before = ["waits-1", "waits-2", "waits-3"], server.runs("faults")
    process = server.forks.begin(RETRY_CODE, str(tmp_path), ",".join(names))
    run = wait_until(lambda: server.new_runs("faults", runs_before), 60, "no run")[0]
    read_progress = lambda: server.artifacts(run).get("region-features-progress", {}).get("data", 0)  # noqa: E731
    percentages = [0.0]
    for name in names:
        (tmp_path / f"go-{name}").touch()
        percentages.append(
            wait_until(
                lambda: read_progress() > percentages[-1] and read_progress(),
                60,
                f"the progress stays at {percentages[-1]} %",
            )
        )
    assert percentages == pytest.approx([0, 100 / 3, 200 / 3, 100])
    assert process.wait(60) == 0


@pytest.mark.parametrize(
    ("error", "calls"),
    [
        (OSError(16, "resource busy"), 4),
        (OSError(28, "no space left"), 1),  # a full disk stays full
        (ValueError("a bad plan"), 1),
        (RejectedError("version 2 did not pass its gate: recall", 2, GateVerdict(passed=False)), 1),
    ],
)
def test_retry_repeats_a_stage_as_often_as_a_shard(error, calls, monkeypatch):
    from flows.tasks import retries
    from flows.tasks.retries import retry

    attempts, sleeps = [], []
    monkeypatch.setattr(retries.time, "sleep", sleeps.append)

    def make():
        attempts.append(1)
        raise error

    with pytest.raises(type(error)):
        retry("publishing", make)
    assert len(attempts) == calls
    assert sleeps == sorted(sleeps), "with back-off"
    assert [2 <= sleeps[0] <= 3, sleeps[-1] >= 60] == [True] * 2 if calls > 1 else not sleeps


# The disk is busy once when the third checkpoint is renamed and once when CURRENT is renamed. Another thread holds the
# write lock of the index when the index is built.
BUSY_CODE = """
import os, sys, threading
from pathlib import Path
from data.io.locks import write_lock
from flows import flows
from flows.tasks import retries

retries.RETRY_DELAYS[:], retries.LOCK_POLL_SECONDS = [0.01] * 3, 0.1
faults, real = {"last.pt": [0, 0, 5], "CURRENT": [16]}, os.replace

def replace(source, target):
    errors = faults.get(Path(target).name)
    if errors and (number := errors.pop(0)):
        raise OSError(number, os.strerror(number), str(target))
    return real(source, target)

os.replace = replace
print(flows.train_tern(sys.argv[1], ["train.epochs=5"]))

def hold_lock():
    with write_lock(Path(sys.argv[2])):
        locked.set()
        warned.wait(60)

locked, warned, warning = threading.Event(), threading.Event(), retries.log.warning
retries.log.warning = lambda text, *values: (warning(text, *values), warned.set())
(root := Path(sys.argv[2])).mkdir()
threading.Thread(target=hold_lock).start()
locked.wait()
print(flows.build_index(sys.argv[1], ["train.epochs=5"]))
"""


def test_training_and_publishing_wait_for_a_busy_disk_without_repeated_work(server, finished_pipeline, tmp_path):
    plan, workspace = copy_workspace(finished_pipeline.plan.workspace, tmp_path / "busy", "train_tern")
    finished = server.python(BUSY_CODE, str(plan), str(workspace / "index"))
    assert finished.returncode == 0, finished.stderr
    rows = next(workspace.glob("models/*/history.csv")).read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5]
    train, index = server.runs("train-tern")[0], server.runs("build-index")[0]
    epochs = sorted(task["name"] for task in server.tasks(train) if task["name"].startswith("epoch"))
    assert len(epochs) <= 6, "one epoch at most is repeated"
    assert [path.stem for path in (workspace / "index" / "versions").glob("*.json")] == ["v00000001"]
    assert verify_version(workspace / "index")
    waits = f"publishing waits, at most 60 min: {workspace / 'index'} is being written by process"
    for run, text in ((train, "training: [Errno 5]"), (index, "publishing: [Errno 16]"), (index, waits)):
        lines = wait_until(lambda: [x for x in server.logs(run) if text in x["message"]], 30, f"no line {text}")  # noqa: B023
        assert [line["level"] for line in lines] == [30]


GPU_CODE = """
import sys
from pathlib import Path
from prefect import flow
from prefect.client.orchestration import get_client
from flows.server.deploy import create_gpu_limit
from flows.tasks.shards import make_task_map_factory
from tests.helpers import flow_jobs

@flow
def held(folder: str, function: str, jobs: int):
    work = [flow_jobs.OnDevice(Path(folder), number) for number in range(jobs)]
    return make_task_map_factory(4, "demo")("region features")(getattr(flow_jobs, function), work)

with get_client(sync_client=True) as client:
    create_gpu_limit(client)
held(sys.argv[1], sys.argv[2], int(sys.argv[3]))
"""


def test_number_of_gpu_slots_limits_concurrent_tasks(server, tmp_path):
    get_limit = lambda: server.get("/concurrency_limits/tag/gpu")["concurrency_limit"]  # noqa: E731
    initial_limit = get_limit()  # made by `tern up`
    one_slot, two_slots = (f"import os; os.environ['TERN_GPU_SLOTS'] = '{number}'\n" + GPU_CODE for number in (1, 2))
    for code, slots, function, jobs in (
        (two_slots, 2, "run_together", 2),
        (one_slot, 1, "run_alone", 1),
        (GPU_CODE, 1, "run_alone", 3),
    ):
        process = server.python(code, str(tmp_path), function, str(jobs))
        assert process.returncode == 0, process.stderr
        assert get_limit() == slots, "an existing limit changes only if TERN_GPU_SLOTS is set"
        assert [task["tags"] for task in server.tasks(server.runs("held")[0])] == [["gpu"]] * jobs
    server.patch("/v2/concurrency_limits/tag:gpu", {"limit": initial_limit})


def test_failure_command_receives_the_failure_and_its_own_error_is_only_logged(tmp_path, monkeypatch):
    from flows.reporting import hooks

    report = tmp_path / "told.json"
    run, state = SimpleNamespace(name="reindex demo", id=1), SimpleNamespace(name="Failed", message="recall 0.71")
    script = tmp_path / "tell.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write(input())")
    monkeypatch.setenv("TERN_ON_FAILURE", f"{sys.executable} {script} {report}")
    hooks.run_failure_command(flow=SimpleNamespace(name="reindex"), flow_run=run, state=state)
    assert json.loads(report.read_text())["message"] == "recall 0.71"
    lines, flow = [], SimpleNamespace(name="reindex")

    def make_logger(*logged_for):
        return SimpleNamespace(error=lambda text, *values: lines.append((logged_for, text % values)))

    monkeypatch.setattr(hooks, "flow_run_logger", make_logger)
    monkeypatch.setenv("TERN_ON_FAILURE", "/nobody/here")
    hooks.run_failure_command(flow=flow, flow_run=run, state=state)
    ((logged_for, line),) = lines
    assert (logged_for, line.split(":")[0]) == (
        (run, flow),
        "The command TERN_ON_FAILURE=/nobody/here failed for reindex demo",
    )


@pytest.mark.parametrize(
    ("error", "reports"),
    [
        (RejectedError("version 2 did not pass its gate: recall", 2, GateVerdict(passed=False)), 1),
        (ValueError("the index is being written by process 7"), 0),
        (FileNotFoundError("no index"), 0),
    ],
)
def test_only_gate_rejections_create_rejection_artifacts(error, reports, monkeypatch, tmp_path):
    from flows import runs

    class Runner:
        workspace, plan = Workspace(tmp_path), SimpleNamespace(workspace=tmp_path)

        def load_trainable_dataset(self):
            if read_errors:
                raise read_errors.pop()

        def extract(self, dataset):
            return SimpleNamespace(invalid_records=())

        train = extract

        def embed(self, features, model):
            return SimpleNamespace(features=features)

        def publish_index(self, vectors):
            raise error

    created, read_errors = [], [OSError(16, "resource busy")]
    monkeypatch.setattr("flows.tasks.retries.RETRY_DELAYS", [0])
    monkeypatch.setattr(runs.artifacts, "create_rejection_artifacts", lambda *arguments: created.append(arguments))
    monkeypatch.setattr(runs.artifacts, "create_store_tables", lambda features, workspace: None)
    monkeypatch.setattr(runs, "get_run_logger", logging.getLogger)
    with pytest.raises(type(error)):
        runs.run_publish(Runner())
    assert len(created) == reports
    assert not read_errors, "reading the dataset is retried"


@pytest.mark.parametrize(("parent", "events"), [(None, 1), ("pipeline", 0)])
def test_new_model_event_is_sent_before_the_evaluation(parent, events, monkeypatch, tmp_path):
    from flows import runs

    class Runner:
        workspace = Workspace(tmp_path)

        def load_trainable_dataset(self):
            pass

        def extract(self, dataset):
            return SimpleNamespace(invalid_records=())

        def train(self, features):
            return tmp_path / "models" / "tern-0123456789ab"

        def embed(self, features, model):
            return SimpleNamespace(features=features)

        def evaluate(self, vectors):
            raise ValueError("the run ends here")

    sent = []
    monkeypatch.setattr(runs, "emit_event", lambda *positional, **fields: sent.append((*positional, fields["payload"])))
    monkeypatch.setattr(runs, "flow_run", SimpleNamespace(parent_flow_run_id=parent))
    monkeypatch.setattr(runs.artifacts, "create_store_tables", lambda features, workspace: None)
    with pytest.raises(ValueError, match="the run ends here"):
        runs.run_training(Runner(), "demo", ("train.seed=1",), None)
    facts = {"plan": "demo", "model": "tern-0123456789ab"}
    resource, payload = (
        {"prefect.resource.id": f"tern.model.{facts['model']}"} | facts,
        facts | {"overrides": ["train.seed=1"]},
    )
    assert sent == [(runs.MODEL_CREATED, resource, payload)] * events
