"""The same stores come out of every engine; Dask is tested where its extra is installed."""

import os
import shutil
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from data.store.store import Store
from tests.helpers.flow_server import await_, marked
from tests.helpers.small_plan import small_plan

pytest.importorskip("prefect")

pytestmark = pytest.mark.slow
RUN = """
import multiprocessing, os, sys
from contextlib import ExitStack
from prefect import task_runners

os.environ |= {"TERN_TASK_RUNNER": sys.argv[2], "TERN_TASK_RUNNER_WORKERS": "2", "OMP_NUM_THREADS": "1"}
with ExitStack() as stack:
    # Workers are forked from the process that has the imports, as the flow's own are; spawned, each takes 9 s of CPU.
    task_runners.multiprocessing.get_context = lambda kind, real=multiprocessing.get_context: real("forkserver")
    if sys.argv[2] == "dask":
        import dask
        dask.config.set({"distributed.worker.multiprocessing-method": "forkserver"})
        from distributed import LocalCluster
        ways = {"processes": True, "dashboard_address": None, "resources": {"GPU": 1}}
        cluster = LocalCluster(n_workers=2, threads_per_worker=2, **ways)
        stack.enter_context(cluster)
        os.environ["TERN_DASK_ADDRESS"] = cluster.scheduler_address
    from flows import flows
    from flows.tasks.task_runners import make_task_runner
    flows.extract_flickr.with_options(task_runner=make_task_runner())(sys.argv[1], splits=["val", "test"])
    if sys.argv[2] == "dask":  # its workers have two threads and say that they have one GPU: more slots than GPUs
        from pathlib import Path
        from prefect import flow
        from prefect.client.orchestration import get_client
        from flows.server.deploy import create_gpu_limit
        from flows.tasks.shards import make_task_map_factory
        from tests.helpers.flow_jobs import OnDevice
        from tests.helpers.flow_jobs import alone

        os.environ["TERN_GPU_SLOTS"] = "4"
        with get_client(sync_client=True) as client:
            create_gpu_limit(client)

        @flow(task_runner=make_task_runner())
        def held():
            jobs = [OnDevice(Path(sys.argv[1]).parent, number) for number in range(4)]
            print(*make_task_map_factory(4, "demo")("region features")(alone, jobs))

        held()
"""


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_an_engine_makes_the_stores_of_the_command_line(server, finished_pipeline, tmp_path, engine):
    if engine == "dask":
        pytest.importorskip("prefect_dask")
    shutil.copytree(finished_pipeline.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    ended = server.python(RUN, str(small_plan(tmp_path)), engine)
    assert ended.returncode == 0, ended.stderr[-4000:]
    if engine == "dask":
        assert ended.stdout.splitlines()[-1] == "0 1 2 3", "one task a GPU of a worker"
        server.patch("/v2/concurrency_limits/tag:gpu", {"limit": 1})
    held_out = {image.id for image in finished_pipeline.features.dataset.images if image.split != "train"}
    held_out |= {c.id for c in finished_pipeline.features.dataset.captions if c.image_id in held_out}
    for kind in ("regions", "tokens"):
        theirs = Store(getattr(finished_pipeline.features, kind))
        ours = Store(tmp_path / "run" / "stores" / theirs.folder.name)
        ids = list(ours.ids)
        assert set(ids) == held_out & set(theirs.ids)
        assert np.array_equal(ours.lengths(ids), theirs.lengths(ids))
        np.testing.assert_allclose(ours.read("features", ids), theirs.read("features", ids), rtol=0, atol=2e-2)
    tasks = server.tasks(server.runs("extract-flickr")[0])
    assert len([task for task in tasks if task["name"].startswith("region-features demo")]) == 2


def test_an_engine_that_is_not_there_is_refused(monkeypatch):
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


TRAIN = """
import os, sys
os.environ |= {"MARK": sys.argv[2].removeprefix("MARK="), "OMP_NUM_THREADS": "1"}
from flows import flows
print(flows.train_tern(sys.argv[1], epochs=6, processes=2))
"""


def test_a_flow_trains_by_torchrun_whose_processes_end_with_a_killed_run(server, finished_pipeline, tmp_path):
    for part in ("dataset", "stores"):
        shutil.copytree(finished_pipeline.plan.workspace / part, tmp_path / "run" / part)
    plan, mark = str(small_plan(tmp_path)), f"MARK={tmp_path.name}"
    models = tmp_path / "run" / "models"
    killed = server.forks.begin(TRAIN, plan, mark)
    await_(lambda: list(models.glob("*/history.csv")) or killed.poll() is not None, 90, "no epoch ended")
    assert len(marked(mark)) >= 3, "torchrun, and two that train"
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    await_(lambda: not marked(mark), 30, "a process goes on without its run")

    ended = server.python(TRAIN, plan, mark)
    assert ended.returncode == 0, ended.stderr[-4000:]
    folder = Path(ended.stdout.split()[-1])
    rows = (folder / "history.csv").read_text().splitlines()[1:]
    assert [row.split(",")[0] for row in rows] == list("123456")
    assert (folder / "model.json").is_file()
    run = server.runs("train-tern")[0]
    assert server.artifacts(run)["training-progress"]["data"] == 100
    asked = {
        "filter": {
            "event": {"name": ["tern.model.created"]},
            "resource": {"id": [f"tern.model.{folder.name}"]},
        }
    }
    (event,) = await_(lambda: server.post("/events/filter", asked)["events"], 30, "no event of a new checkpoint")
    assert event["resource"]["model"] == event["payload"]["model"] == folder.name
    assert (event["resource"]["plan"], event["payload"]["overrides"]) == (plan, ["train.epochs=6"])
    assert "epoch demo 006" in {task["name"] for task in server.tasks(run)}
