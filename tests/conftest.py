"""Shared fixtures: a run of a small plan over demo scenes, with the demo detector and a BERT, once per session."""

import os
import sys
from pathlib import Path

import pytest

# Two OpenMP teams on two cores wait for each other, ten times as long as they work; and tests never ask a model hub.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # which has inherited what the line below said to the first process


os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

# Many images of containers forbid compiled files. Then each process, and each that a test starts, compiles all again.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# The files whose tests use the fixture `server`, which costs half a minute of CPU to start and some to keep. A list by
# marker would be better, but `--dist loadgroup` of pytest-xdist 3.8 does nothing with pytest 9.2.
SERVER_TESTS = ("backfill", "faults", "flows", "kills", "photo_reindex", "stale_runs", "task_runners")
SERVER_FILES = {f"tests/flows/test_{name}.py" for name in SERVER_TESTS}

# The files that take longest on two cores, after those of the server. They are begun first: a long file that is begun
# last keeps one process busy while the others have ended.
LONG_FILES = (
    "tests/architecture/test_docs.py",
    "tests/pipeline/runs/test_pipeline.py",
    "tests/pipeline/runs/test_same_numbers.py",
    "tests/pipeline/runs/test_model_package.py",
    "tests/pipeline/cli/test_photos_kills.py",
    "tests/pipeline/cli/test_photos_errors.py",
    "tests/pipeline/cli/test_photos.py",
    "tests/pipeline/runs/test_carried_demo.py",
    "tests/pipeline/cli/test_evil_names.py",
    "tests/tern/parallel/test_distributed.py",
    "tests/tern/training/test_resume.py",
    "tests/tern/training/test_train.py",
    "tests/data/exchange/test_formats_killed.py",
    "tests/data/demo/test_demo.py",
    "tests/extractors/regions/test_detector.py",
)


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
    """Mark the tests that use a Prefect server, and as slow those that need a finished pipeline; long files first."""
    if "PYTEST_XDIST_WORKER" in os.environ:
        items.sort(key=lambda item: _rank_file(item.nodeid.partition("::")[0]))
    for item in items:
        fixtures = getattr(item, "fixturenames", ())
        if "pipeline_with_jobs" in fixtures:
            item.add_marker(pytest.mark.slow)
        if "server" in fixtures:
            assert item.nodeid.partition("::")[0] in SERVER_FILES, f"add the file of {item.nodeid} to SERVER_FILES"
            item.add_marker(pytest.mark.server)


def _rank_file(file: str) -> int:
    """Return the place of a file among those that are begun first, from 0; one past the last for all other files."""
    order = [SERVER_FILES, *({long} for long in LONG_FILES)]
    return next((rank for rank, files in enumerate(order) if file in files), len(order))


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory) -> Path:
    """Folder of all processes of a test run."""
    root = tmp_path_factory.getbasetemp()
    return root.parent if "PYTEST_XDIST_WORKER" in os.environ else root  # xdist has a folder for each process in it


@pytest.fixture(scope="session", autouse=True)
def cache_folder(shared_folder):
    """Cache folder of the tests and of the processes that they start, in place of the user's."""
    os.environ["XDG_CACHE_HOME"] = str(shared_folder / "cache")


@pytest.fixture(scope="session", autouse=True)
def shared_query_sides(shared_folder):
    """Export the query sides of equal models once."""
    from tests.helpers.query_sides import share_query_sides

    with pytest.MonkeyPatch.context() as patch:
        share_query_sides(patch, shared_folder / "query-sides")
        yield


@pytest.fixture(scope="session")
def pipeline_with_jobs(shared_folder, tmp_path_factory):
    """The results of all stages of the small plan, and (stage, job, result) of each job that a flow runs as a task."""
    from tests.helpers.finished_run import open_finished_run

    return open_finished_run(shared_folder / "finished-run", tmp_path_factory.mktemp("finished"))


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
