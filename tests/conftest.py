"""Shared fixtures: a small plan over real scenes, the shipped detector and a real BERT, run once a session."""

import os

import pytest

from tests.helpers.small_plan import small_plan

# Two OpenMP teams on two cores wait for each other, ten times as long as they work; and tests never ask a model hub.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # which has inherited what the line below said to the first process


os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file in one process, and all that use the fixture `server` in another: it starts only once."""
    for item in items:
        uses_server = "server" in getattr(item, "fixturenames", ())
        if uses_server:
            item.add_marker(pytest.mark.server)
        item.add_marker(pytest.mark.xdist_group("server" if uses_server else item.nodeid.partition("::")[0]))


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
