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
from index.versions.manifest import GateVerdict
from index.versions.switch import RejectedError, verify_version
from pipeline.workspace import Workspace
from tests.helpers.flow_jobs import counted
from tests.helpers.flow_server import await_, copied

prefect = pytest.importorskip("prefect")

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("error", "again"),
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
def test_what_can_pass_is_tried_again_and_what_cannot_is_not(error, again):
    from flows.tasks.retries import is_retryable

    assert is_retryable(error) is again


def test_a_job_past_its_time_is_stopped_and_the_pool_works_on(tmp_path):
    from flows.tasks.worker_pool import WorkerPool

    began = time.monotonic()
    with WorkerPool([tmp_path], 1, timeout_seconds=4) as pool:
        with pytest.raises(TimeoutError, match="Set a smaller `images_per_shard`"):
            pool.run(counted, tmp_path / "slow")
        assert pool.run(counted, tmp_path / "good") == "good"
    assert time.monotonic() - began < 50


def test_a_job_past_its_time_ends_its_own_pool_and_not_the_one_that_has_taken_its_place(monkeypatch):
    from flows.tasks import worker_pool as pools
    from flows.tasks.worker_pool import WorkerPool

    class Pool:
        def __init__(self):
            self.killed, self._processes = [], {1: SimpleNamespace(kill=lambda: self.killed.append(1))}

        def submit(self, function, job):
            return self

        def result(self, seconds):
            workers._pool = later  # another job has lost its worker just now
            raise TimeoutError

        def done(self):
            return False

    first, later = Pool(), Pool()
    monkeypatch.setattr(pools, "open_pool", lambda jobs, workers: nullcontext(first))
    workers = WorkerPool([1], 1, timeout_seconds=1)
    with pytest.raises(TimeoutError, match="Set a smaller `images_per_shard`"):
        workers.run(counted, 1)
    assert (first.killed, later.killed) == ([1], [])


def test_a_store_that_another_process_writes_is_waited_for_and_at_last_refused_with_its_name(tmp_path, monkeypatch):
    from flows.tasks import retries
    from flows.tasks.retries import LOCK_POLL_SECONDS, retry, wait_for_lock

    def write() -> str:
        with write_lock(tmp_path):
            return "written"

    other = ExitStack()
    other.enter_context(write_lock(tmp_path))
    looks = []
    monkeypatch.setattr(retries.time, "sleep", lambda seconds: looks.append(seconds) or len(looks) < 3 or other.close())
    assert retry("publishing", write) == "written"
    assert looks == [LOCK_POLL_SECONDS] * 3
    monkeypatch.setenv("TERN_LOCK_TIMEOUT_MINUTES", "0")
    with write_lock(tmp_path), pytest.raises(WriteLockError, match=f"is being written by process {os.getpid()}"):
        wait_for_lock("publishing", write)


RETRIED = """
import sys
from pathlib import Path
from prefect import flow
import flows.tasks.shards
from tests.helpers.flow_jobs import counted

flows.tasks.shards.UPDATE_SECONDS = 0
flows.tasks.shards.shard = flows.tasks.shards.shard.with_options(retry_delay_seconds=[0.1] * 3)

@flow
def faults(folder: str, names: list[str]):
    # One worker per job: the order of the jobs is not defined.
    map_fn = flows.tasks.shards.make_task_map_factory(3, "demo")("region features")
    return map_fn(counted, [Path(folder) / name for name in names])

faults(sys.argv[1], sys.argv[2].split(","))
"""


def test_lost_workers_and_busy_disks_are_tried_again_bad_input_once(server, tmp_path):
    ended = server.python(RETRIED, str(tmp_path), "dies-once,good,busy-once")
    assert ended.returncode == 0, ended.stderr
    assert len((tmp_path / "busy-once").read_text().splitlines()) == 2
    ended = server.python(RETRIED, str(tmp_path), "bad,good")
    assert ended.returncode != 0
    assert len((tmp_path / "bad").read_text().splitlines()) == 1, "bad input is not tried again"
    shown = server.artifacts(server.runs("faults")[0])["region-features-progress"]
    assert shown["data"] == 50, "what failed is not done"
    assert re.search(r", [\d,.]+ items per second, 0 s left, 1 failed$", shown["description"])


def test_the_progress_of_a_stage_moves_while_its_run_goes_on(server, tmp_path):
    names, before = ["waits-1", "waits-2", "waits-3"], server.runs("faults")
    process = server.forks.begin(RETRIED, str(tmp_path), ",".join(names))
    run = await_(lambda: server.since("faults", before), 60, "no run")[0]
    shown = lambda: server.artifacts(run).get("region-features-progress", {}).get("data", 0)  # noqa: E731
    read = [0.0]
    for name in names:
        (tmp_path / f"go-{name}").touch()
        read.append(await_(lambda: shown() > read[-1] and shown(), 60, f"stays at {read[-1]} %"))
    assert read == pytest.approx([0, 100 / 3, 200 / 3, 100])
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
def test_a_stage_that_is_no_task_is_tried_as_often_as_a_shard(error, calls, monkeypatch):
    from flows.tasks import retries
    from flows.tasks.retries import retry

    made, waited = [], []
    monkeypatch.setattr(retries.time, "sleep", waited.append)

    def make():
        made.append(1)
        raise error

    with pytest.raises(type(error)):
        retry("publishing", make)
    assert len(made) == calls
    assert waited == sorted(waited), "with back-off"
    assert [2 <= waited[0] <= 3, waited[-1] >= 60] == [True] * 2 if calls > 1 else not waited


# The disk is busy when the third checkpoint and when the pointer to the version is put in its place, each once; and the
# index is written by another when its turn comes.
BUSY = """
import os, sys, threading
from pathlib import Path
from data.io.locks import write_lock
from flows import flows
from flows.tasks import retries

retries.RETRY_DELAYS[:], retries.LOCK_POLL_SECONDS = [0.01] * 3, 0.1
faults, real, epochs = {"last.pt": [0, 0, 5], "CURRENT": [16]}, os.replace, []

def replace(source, to):
    left = faults.get(Path(to).name)
    if left and (number := left.pop(0)):
        raise OSError(number, os.strerror(number), str(to))
    return real(source, to)

os.replace = replace
print(flows.train_tern(sys.argv[1], ["train.epochs=5"]))

def other():
    with write_lock(Path(sys.argv[2])):
        taken.set()
        waits.wait(60)

taken, waits, warning = threading.Event(), threading.Event(), retries.log.warning
retries.log.warning = lambda text, *told: (warning(text, *told), waits.set())
(root := Path(sys.argv[2])).mkdir()
threading.Thread(target=other).start()
taken.wait()
print(flows.build_index(sys.argv[1], ["train.epochs=5"]))
"""


def test_a_busy_disk_in_training_and_publishing_is_waited_for_and_nothing_is_done_twice(
    server, finished_pipeline, tmp_path
):
    plan, workspace = copied(finished_pipeline.plan.workspace, tmp_path / "busy", "train_tern")
    ended = server.python(BUSY, str(plan), str(workspace / "index"))
    assert ended.returncode == 0, ended.stderr
    rows = next(workspace.glob("models/*/history.csv")).read_text().splitlines()[1:]
    assert [int(row.split(",")[0]) for row in rows] == [1, 2, 3, 4, 5]
    train, index = server.runs("train-tern")[0], server.runs("build-index")[0]
    epochs = sorted(task["name"] for task in server.tasks(train) if task["name"].startswith("epoch"))
    assert len(epochs) <= 6, "one epoch at most is repeated"
    assert [path.stem for path in (workspace / "index" / "versions").glob("*.json")] == ["v00000001"]
    assert verify_version(workspace / "index")
    waits = f"publishing waits, at most 60 min: {workspace / 'index'} is being written by process"
    for run, told in ((train, "training: [Errno 5]"), (index, "publishing: [Errno 16]"), (index, waits)):
        lines = await_(lambda: [x for x in server.logs(run) if told in x["message"]], 30, f"no line {told}")  # noqa: B023
        assert [line["level"] for line in lines] == [30]


HELD = """
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


def test_a_gpu_has_one_task_at_a_time_and_two_have_two(server, tmp_path):
    limit = lambda: server.get("/concurrency_limits/tag/gpu")["concurrency_limit"]  # noqa: E731
    there = limit()  # made by `tern up`
    one, two = (f"import os; os.environ['TERN_GPU_SLOTS'] = '{number}'\n" + HELD for number in (1, 2))
    for code, slots, how, jobs in ((two, 2, "together", 2), (one, 1, "alone", 1), (HELD, 1, "alone", 3)):
        ended = server.python(code, str(tmp_path), how, str(jobs))
        assert ended.returncode == 0, ended.stderr
        assert limit() == slots, "one that is there stays unless another is asked for"
        assert [task["tags"] for task in server.tasks(server.runs("held")[0])] == [["gpu"]] * jobs
    server.patch("/v2/concurrency_limits/tag:gpu", {"limit": there})


def test_a_failure_is_told_to_a_command_and_one_that_fails_itself_changes_nothing(tmp_path, monkeypatch):
    from flows.reporting import hooks

    told = tmp_path / "told.json"
    run, state = SimpleNamespace(name="reindex demo", id=1), SimpleNamespace(name="Failed", message="recall 0.71")
    script = tmp_path / "tell.py"
    script.write_text("import sys; open(sys.argv[1], 'w').write(input())")
    monkeypatch.setenv("TERN_ON_FAILURE", f"{sys.executable} {script} {told}")
    hooks.run_failure_command(flow=SimpleNamespace(name="reindex"), flow_run=run, state=state)
    assert json.loads(told.read_text())["message"] == "recall 0.71"
    lines, flow = [], SimpleNamespace(name="reindex")
    ours = lambda *of: SimpleNamespace(error=lambda text, *told: lines.append((of, text % told)))  # noqa: E731
    monkeypatch.setattr(hooks, "flow_run_logger", ours)
    monkeypatch.setenv("TERN_ON_FAILURE", "/nobody/here")
    hooks.run_failure_command(flow=flow, flow_run=run, state=state)
    ((of, line),) = lines
    assert (of, line.split(":")[0]) == ((run, flow), "The command TERN_ON_FAILURE=/nobody/here failed for reindex demo")


@pytest.mark.parametrize(
    ("error", "reports"),
    [
        (RejectedError("version 2 did not pass its gate: recall", 2, GateVerdict(passed=False)), 1),
        (ValueError("the index is being written by process 7"), 0),
        (FileNotFoundError("no index"), 0),
    ],
)
def test_only_what_the_gate_refused_is_shown_as_refused(error, reports, monkeypatch, tmp_path):
    from flows import runs

    class Runner:
        workspace, plan = Workspace(tmp_path), SimpleNamespace(workspace=tmp_path)

        def load_dataset(self, splits, model_is_given):
            if busy:
                raise busy.pop()

        def extract(self, dataset):
            pass

        train = extract

        def embed(self, features, model):
            pass

        def publish_index(self, vectors):
            raise error

    shown, busy = [], [OSError(16, "resource busy")]
    monkeypatch.setattr("flows.tasks.retries.RETRY_DELAYS", [0])
    monkeypatch.setattr(runs.artifacts, "create_rejection_artifacts", lambda *told: shown.append(told))
    monkeypatch.setattr(runs.artifacts, "create_store_tables", lambda features, workspace: None)
    monkeypatch.setattr(runs, "get_run_logger", logging.getLogger)
    with pytest.raises(type(error)):
        runs.run_publish(Runner())
    assert len(shown) == reports
    assert not busy, "reading the dataset is tried again"


@pytest.mark.parametrize(("parent", "events"), [(None, 1), ("pipeline", 0)])
def test_the_event_of_a_new_model_is_sent_before_the_evaluation_which_may_fail(parent, events, monkeypatch, tmp_path):
    from flows import runs

    class Runner:
        workspace = Workspace(tmp_path)

        def load_dataset(self, splits, model_is_given):
            pass

        def extract(self, dataset):
            pass

        def train(self, features):
            return tmp_path / "models" / "tern-0123456789ab"

        def embed(self, features, model):
            pass

        def evaluate(self, vectors):
            raise ValueError("the run ends here")

    sent = []
    monkeypatch.setattr(runs, "emit_event", lambda *told, **more: sent.append((*told, more["payload"])))
    monkeypatch.setattr(runs, "flow_run", SimpleNamespace(parent_flow_run_id=parent))
    monkeypatch.setattr(runs.artifacts, "create_store_tables", lambda features, workspace: None)
    with pytest.raises(ValueError, match="the run ends here"):
        runs.run_training(Runner(), "demo", ("train.seed=1",), None)
    told = {"plan": "demo", "model": "tern-0123456789ab"}
    resource, payload = (
        {"prefect.resource.id": f"tern.model.{told['model']}"} | told,
        told | {"overrides": ["train.seed=1"]},
    )
    assert sent == [(runs.MODEL_CREATED, resource, payload)] * events
