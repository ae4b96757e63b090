"""Shared fixtures: a small plan over real scenes, the shipped detector and a real BERT, run once a session."""

import os

import pytest

from tests.helpers.small_plan import small_plan

# Two OpenMP teams on two cores wait for each other, ten times as long as they work; and tests never ask a model hub.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # which has inherited what the line below said to the first process


os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Files whose tests ask for the fixture `server`, which costs half a minute of CPU to start and some to keep.
SERVED = {f"tests/flows/test_{name}.py" for name in ("backfill", "task_runners", "faults", "kills", "flows")}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files whole, as with `--dist loadfile`, and all that need a Prefect server to one process: so it is one."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return "server" if scope in SERVED else scope

    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None


@pytest.fixture(scope="session")
def pipeline_with_jobs(tmp_path_factory):
    """The results of all stages of the small plan, and (stage, job, result) of each job that a flow runs as a task."""
    from pipeline.plans.load import load_plan
    from pipeline.runs.runner import PipelineRunner

    jobs_run = []

    def make_recording_map(stage):
        def map_and_record(function, jobs):
            for job in jobs:
                result = function(job)
                if stage != "draw scenes":  # a flow does not run these jobs as tasks
                    jobs_run.append((stage, job, result))
                yield result

        return map_and_record

    plan = load_plan(str(small_plan(tmp_path_factory.mktemp("finished"))))
    finished = PipelineRunner(plan, make_recording_map).run_all()
    assert finished.evaluation.is_file()
    assert finished.index.is_file()
    return finished, jobs_run


@pytest.fixture(scope="session")
def finished_pipeline(pipeline_with_jobs):
    """The results of all stages of the small plan."""
    return pipeline_with_jobs[0]


@pytest.fixture(scope="session")
def finished_jobs(pipeline_with_jobs):
    """(stage, job, result) of each job of the finished pipeline that a flow runs as a task."""
    return pipeline_with_jobs[1]


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A Prefect server with worker and deployments, as `tern up` starts them."""
    pytest.importorskip("prefect")
    from tests.helpers.flow_server import up

    with up(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server
