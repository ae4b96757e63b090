"""After a kill or a full disk in an update or a compaction the published version answers; the next run completes."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from index.building.build import build_index
from index.building.compact import compact_index
from index.versions.folder import read_version_manifest
from tests.helpers.index_faults import limit_file_size
from tests.helpers.index_publish import bytes_of
from tests.helpers.index_updates import CONFIG, World, edit
from tests.helpers.killed_updates import IMAGES
from tests.helpers.repeats import WRITER_KILLS

pytestmark = pytest.mark.slow

NUM_STEPS = 12


class Killed(BaseException):
    """Ends the process at a step."""


def update_and_compact(root: Path, on_step=lambda step: None) -> None:
    """Run an update and a compaction, as far as they are not finished."""
    world = World(images=IMAGES)
    edit(world)
    world.update(root, on_step=on_step)
    compact_index(root, on_step=on_step)


def check_published(root: Path, version: int) -> None:
    """Assert that version 1 has the original items, and that later versions have the updated ones."""
    world = World(images=IMAGES)
    if version > 1:
        edit(world)
    world.check(root)


def bytes_without_staging(root: Path) -> dict[str, str]:
    """Return the hashes of all files except staging records, which a kill after the switch leaves behind."""
    return {name: sha256 for name, sha256 in bytes_of(root).items() if not name.startswith("staging/")}


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    build_index(CONFIG, World(images=IMAGES).inputs(), root)
    return root


@pytest.fixture(scope="module")
def uninterrupted(base, tmp_path_factory) -> dict[str, str]:
    """The files of an update and a compaction without interruption."""
    root, steps = shutil.copytree(base, tmp_path_factory.mktemp("uninterrupted") / "index"), []
    update_and_compact(root, steps.append)
    assert len(steps) == NUM_STEPS, steps
    return bytes_of(root)


@pytest.mark.parametrize("crash", range(NUM_STEPS))
def test_kill_at_any_step_keeps_published_version_and_next_run_completes(crash, root, uninterrupted):
    steps = []

    def kill(step):
        steps.append(step)
        if len(steps) == crash + 1:
            raise Killed

    with pytest.raises(Killed):
        update_and_compact(root, kill)
    check_published(root, read_version_manifest(root).version)
    update_and_compact(root)
    assert bytes_without_staging(root) == uninterrupted


# Maximum bytes per file, and the version that is published then: the lookups, the largest files, have 16 KiB in the
# update and 24 KiB in the compaction.
@pytest.mark.parametrize(
    ("size", "version"), [(0, 1), (250, 1), (1_200, 1), (6_000, 1), (16_000, 1), (17_000, 2), (20_000, 2)]
)
def test_full_disk_in_update_or_compaction_is_named_and_keeps_published_version(size, version, root, uninterrupted):
    with pytest.raises(OSError) as full, limit_file_size(size):  # noqa: PT011  # the type of the error is checked below
        update_and_compact(root)
    assert full.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert str(root) in str(full.value), "the message names the file"
    assert read_version_manifest(root).version == version
    check_published(root, version)
    update_and_compact(root)
    assert bytes_without_staging(root) == uninterrupted


KILL_SCRIPT = """
import os, random, signal, sys, time
from pathlib import Path
from index.building import compact_index
from index.versions import verify_version
from tests.helpers.killed_updates import make_state, make_world_gate

root, num_kills = Path(sys.argv[1]), int(sys.argv[2])
rng, kills, number = random.Random(0), 0, 1

def work():
    world = make_state(number)
    world.update(root, gate=make_world_gate(world))
    if number % 2:
        compact_index(root, gate=make_world_gate(world))

def find_published_state():
    verify_version(root)
    for state in (number, number - 1):
        try:
            make_state(state).check(root)
            return state
        except AssertionError:
            continue
    raise AssertionError(f"neither state {number} nor the previous one")

make_state(0).update(root, gate=make_world_gate(make_state(0)))
start = time.perf_counter()
work()
seconds = time.perf_counter() - start
while kills < num_kills:
    number += find_published_state() == number
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    time.sleep(rng.uniform(0, seconds))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    kills += status == signal.SIGKILL
work()
make_state(number).check(root)
"""


@pytest.mark.slow
def test_kill_9_at_random_moments_of_updates_and_compactions(root):
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    command = [sys.executable, "-c", KILL_SCRIPT, str(root), str(WRITER_KILLS)]
    folder = Path(__file__).parents[3]
    process = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=20 * WRITER_KILLS, check=False
    )
    assert process.returncode == 0, process.stderr[-3000:]
