"""Shared fixtures: a small plan over real scenes, the shipped detector and a real BERT, run once a session."""

import os
from pathlib import Path

import pytest

# Two OpenMP teams on two cores wait for each other, ten times as long as they work; and tests never ask a model hub.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # which has inherited what the line below said to the first process
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Files whose tests ask for the fixture `server`, which costs half a minute of CPU to start and some to keep.
SERVED = {"test_backfill.py", "test_flow_engines.py", "test_flow_faults.py", "test_flow_kills.py", "test_flows.py"}

SMALL = """
workspace = "{workspace}"
images_per_shard = 10
captions_per_shard = 50
workers = {workers}

[demo]
images = 36
splits = {{train = 24, val = 6, test = 6}}

[regions]
model = "demo"
weights = "demo"
min_score = 0.05

[text]
model = "minilm"

[train]
epochs = 3
images_per_batch = 8

[train.model]
width = 32
feedforward_dim = 64
embed_dim = 32

[index]
shards = 2

[report]
queries = ["two dogs are running along the street"]
hits_per_query = 3
num_images = 2
"""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """Files whole, as with `--dist loadfile`, and all that need a Prefect server to one process: so it is one."""
    from xdist.scheduler import LoadFileScheduling

    class ByServer(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            scope = super()._split_scope(nodeid)
            return "server" if scope.rpartition("/")[2] in SERVED else scope

    return ByServer(config, log) if config.getvalue("dist") == "loadfile" else None


def small_plan(folder: Path, workspace: str = "run", workers: int = 1) -> Path:
    """A plan file for a run of a few seconds."""
    path = folder / "small.toml"
    path.write_text(SMALL.format(workspace=folder / workspace, workers=workers))
    return path


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
    from tests.flow_server import up

    with up(tmp_path_factory.mktemp("prefect") / "home") as server:
        yield server
