"""All task runners write the same stores. Dask is tested only if its extra is installed."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from data.store.store import Store
from tests.helpers.flow_server import list_processes_with, wait_until
from tests.helpers.small_plan import small_plan

pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
EXTRACT_CODE = """
import multiprocessing, os, sys
from contextlib import ExitStack
from prefect import task_runners

os.environ |= {"TERN_TASK_RUNNER": sys.argv[2], "TERN_TASK_RUNNER_WORKERS": "2", "OMP_NUM_THREADS": "1"}
with ExitStack() as stack:
    # Workers are forked from a process that has done the imports, as those of the flow are: spawning one costs 9 s.
    task_runners.multiprocessing.get_context = lambda kind, real=multiprocessing.get_context: real("forkserver")
    if sys.argv[2] == "dask":
        import dask
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        from distributed import LocalCluster
        options = {"processes": True, "dashboard_address": None, "resources": {"GPU": 1}}
        cluster = LocalCluster(n_workers=2, threads_per_worker=2, **options)
        stack.enter_context(cluster)
        os.environ["TERN_DASK_ADDRESS"] = cluster.scheduler_address
    from flows import flows
    from flows.tasks.task_runners import make_task_runner
    flows.extract_flickr.with_options(task_runner=make_task_runner())(sys.argv[1], splits=["val", "test"])
    if sys.argv[2] == "dask":  # each worker has two threads and one GPU; there are more slots than GPUs
        from pathlib import Path
        from prefect import flow
        from prefect.client.orchestration import get_client
        from flows.server.deploy import create_gpu_limit
        from flows.tasks.shards import make_task_map_factory
        from tests.helpers.flow_jobs import OnDevice, run_alone

        os.environ["TERN_GPU_SLOTS"] = "4"
        with get_client(sync_client=True) as client:
            create_gpu_limit(client)

        @flow(task_runner=make_task_runner())
        def run_gpu_jobs():
            jobs = [OnDevice(Path(sys.argv[1]).parent, number) for number in range(4)]
            print(*make_task_map_factory(4, "demo")("region features")(run_alone, jobs))

        run_gpu_jobs()
"""


@pytest.mark.parametrize("task_runner", ["processes", "dask"])
def test_task_runner_writes_the_stores_of_the_command_line(server, finished_pipeline, tmp_path, task_runner):
    if task_runner == "dask":
        pytest.importorskip("prefect_dask")
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    process = server.python(EXTRACT_CODE, str(small_plan(tmp_path)), task_runner)
    assert process.returncode == 0, process.stderr[-4000:]
    if task_runner == "dask":
        assert process.stdout.splitlines()[-1] == "0 1 2 3", "one task at a time per GPU of a worker"
        server.patch("/v2/concurrency_limits/tag:gpu", {"limit": 1})
    held_out = {image.id for image in finished_pipeline.features.dataset.images if image.split != "train"}
    held_out |= {c.id for c in finished_pipeline.features.dataset.captions if c.image_id in held_out}
    for kind in ("regions", "tokens"):
        expected = Store(getattr(finished_pipeline.features, kind))
        store = Store(tmp_path / "run" / "stores" / expected.folder.name)
        ids = list(store.ids)
        assert set(ids) == held_out & set(expected.ids)
        assert np.array_equal(store.lengths(ids), expected.lengths(ids))
        np.testing.assert_allclose(store.read("features", ids), expected.read("features", ids), rtol=0, atol=2e-2)
    tasks = server.tasks(server.runs("extract-flickr")[0])
    assert len([task for task in tasks if task["name"].startswith("region-features demo")]) == 2


def test_unknown_task_runner_is_rejected(monkeypatch):
    from flows.tasks.task_runners import make_task_runner

    monkeypatch.setenv("TERN_TASK_RUNNER", "spark")
    with pytest.raises(
        ValueError, match="TERN_TASK_RUNNER is 'spark'; it must be 'threads', 'processes', 'dask' or 'ray'"
    ):
        make_task_runner()
    monkeypatch.setenv("TERN_TASK_RUNNER", "ray")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(ImportError, match=r"flows,ray"):
        make_task_runner()
    assert "TERN_TASK_RUNNER" in os.environ


TRAIN_CODE = """
import os, sys
os.environ |= {"MARK": sys.argv[2].removeprefix("MARK="), "OMP_NUM_THREADS": "1"}
from flows import flows
print(flows.train_tern(sys.argv[1], epochs=6, processes=2))
"""


def test_torchrun_processes_of_a_flow_end_with_a_killed_run(server, finished_pipeline, tmp_path):
    for part in ("dataset", "stores"):
        shutil.copytree(finished_pipeline.plan.workspace / part, tmp_path / "run" / part)
    plan, mark = str(small_plan(tmp_path)), f"MARK={tmp_path.name}"
    models = tmp_path / "run" / "models"
    killed = server.forks.begin(TRAIN_CODE, plan, mark)
    wait_until(lambda: list(models.glob("*/history.csv")) or killed.poll() is not None, 90, "no epoch ended")
    assert len(list_processes_with(mark)) >= 3, "torchrun and two training processes"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    wait_until(lambda: not list_processes_with(mark), 30, "a training process continues after its run was killed")

    process = server.python(TRAIN_CODE, plan, mark)
    assert process.returncode == 0, process.stderr[-4000:]
    folder = Path(process.stdout.split()[-1])
    rows = (folder / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == list("123456")
    assert (folder / "model.json").is_file()
    run = server.runs("train-tern")[0]
    assert server.artifacts(run)["training-progress"]["data"] == 100
    event_filter = {
        "filter": {
            "event": {"name": ["tern.model.created"]},
            "resource": {"id": [f"tern.model.{folder.name}"]},
        }
    }
    (event,) = wait_until(lambda: server.post("/events/filter", event_filter)["events"], 30, "no event of a new model")
    assert event["resource"]["model"] == event["payload"]["model"] == folder.name
    assert (event["resource"]["plan"], event["payload"]["overrides"]) == (plan, ["train.epochs=6"])
    assert "epoch demo 006" in {task["name"] for task in server.tasks(run)}
