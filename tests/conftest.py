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
def finished(tmp_path_factory):
    """A chain whose every stage has run; `carried` is (stage, job, result) of every shard."""
    from pipeline.plans.load import load_plan
    from pipeline.runs.runner import PipelineRunner

    carried = []

    def watched(label):
        def each(function, jobs):
            for job in jobs:
                result = function(job)
                if label != "draw scenes":  # never a task
                    carried.append((label, job, result))
                yield result

        return each

    chain = PipelineRunner(load_plan(str(small_plan(tmp_path_factory.mktemp("finished")))), watched)
    chain.carried = carried
    assert chain.metrics.is_file()
    assert chain.index.is_file()
    return chain


@pytest.fixture(scope="session")
def server(tmp_path_factory):
    """A Prefect server with worker and deployments, as `tern up` starts them."""
    pytest.importorskip("prefect")
    from tests.helpers.flow_server import up

    with up(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server
