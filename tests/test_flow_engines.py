"""The same stores come out of every engine; Dask is tested where its extra is installed."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest

from data.store import Store
from tests.conftest import small_plan
from tests.flow_server import ROOT

pytest.importorskip("prefect")

RUN = """
import os, sys

def main():
    from contextlib import ExitStack
    with ExitStack() as stack:
        if os.environ["TERN_ENGINE"] == "dask":
            from distributed import LocalCluster
            cluster = LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None)
            stack.enter_context(cluster)
            os.environ["TERN_DASK_ADDRESS"] = cluster.scheduler_address
        from flows import flows
        flows.extract_flickr(sys.argv[1])

if __name__ == "__main__":
    main()
"""


@pytest.mark.parametrize("engine", ["processes", "dask"])
def test_an_engine_makes_the_stores_of_the_command_line(server, finished, tmp_path, engine):
    if engine == "dask":
        pytest.importorskip("prefect_dask")
    shutil.copytree(finished.plan.workspace / "dataset", tmp_path / "run" / "dataset")
    plan, script = small_plan(tmp_path), tmp_path / "engine.py"
    script.write_text(RUN)
    env = server.env | {"TERN_ENGINE": engine, "TERN_ENGINE_WORKERS": "2", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(script), str(plan)]
    ended = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240, check=False)
    assert ended.returncode == 0, ended.stderr[-4000:]
    for kind in ("regions", "tokens"):
        theirs = Store(getattr(finished, kind))
        ours = Store(tmp_path / "run" / "stores" / theirs.folder.name)
        assert ours.ids == theirs.ids
        ids = list(ours.ids)
        assert np.array_equal(ours.lengths(ids), theirs.lengths(ids))
        np.testing.assert_allclose(ours.read("features", ids), theirs.read("features", ids), rtol=0, atol=2e-2)
    tasks = server.tasks(server.runs("extract-flickr")[0])
    assert len([task for task in tasks if task["name"].startswith("region-features demo")]) == 4


def test_an_engine_that_is_not_there_is_refused(monkeypatch):
    from flows.engines import runner

    monkeypatch.setenv("TERN_ENGINE", "spark")
    with pytest.raises(ValueError, match="threads, processes, dask, ray"):
        runner()
    monkeypatch.setenv("TERN_ENGINE", "ray")
    monkeypatch.setitem(sys.modules, "prefect_ray", None)
    with pytest.raises(ImportError, match=r"flows,ray"):
        runner()
    assert "TERN_ENGINE" in os.environ
