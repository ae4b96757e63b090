"""Shared fixtures: a run of a small plan over demo scenes, with the demo detector and a BERT, once per session."""

import os

import pytest

from tests.helpers.small_plan import small_plan

# Two OpenMP teams on two cores wait for each other, ten times as long as they work; and tests never ask a model hub.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # which has inherited what the line below said to the first process


os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


# The files whose tests use the fixture `server`, which costs half a minute of CPU to start and some to keep. A list by
# marker would be better, but `--dist loadgroup` of pytest-xdist 3.8 does nothing with pytest 9.2.
SERVER_TESTS = ("backfill", "faults", "flows", "kills", "stale_runs", "task_runners")
SERVER_FILES = {f"tests/flows/test_{name}.py" for name in SERVER_TESTS}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Keep the tests of a file in one process, and all files that use a Prefect server in the same one."""
    from xdist.scheduler import LoadFileScheduling

    class ServerFilesTogether(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return "server" if scope in SERVER_FILES else scope

    return ServerFilesTogether(config, log) if config.getvalue("dist") == "loadfile" else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use a Prefect server, and as slow those that need a finished pipeline."""
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "pipeline_with_jobs" in fixtures:
            item.add_marker(pytest.mark.slow)
        if "server" in fixtures:
            assert item.nodeid.partition("::")[0] in SERVER_FILES, f"add the file of {item.nodeid} to SERVER_FILES"
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session", autouse=True)
def cache_folder(tmp_path_factory):
    """Cache folder of the tests and of the processes that they start, in place of the user's."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


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
                if stage not in ("draw scenes", "hash images"):  # a flow does not run these jobs as tasks
                    jobs_run.append((stage, job, result))
                yield result

        return map_and_record

    plan = load_plan(str(small_plan(tmp_path_factory.mktemp("finished"))))
    finished = PipelineRunner(plan, make_recording_map).run_all()
    assert set(finished.evaluation.splits) == {"val", "test"}
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
