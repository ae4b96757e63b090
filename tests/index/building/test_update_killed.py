"""Killed updates and compactions: the published version answers, and the next run ends like one that was not."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from index.building.compact import compact_index
from index.versions.folder import read_version_manifest
from tests.helpers.index_faults import files_of_at_most
from tests.helpers.index_publish import bytes_of
from tests.helpers.index_updates import World, edit

KILLED = int(os.environ.get("TERN_TEST_INDEX_KILLS", "10"))  # `make test-faults`: 50


class Killed(BaseException):
    """The process ends here."""


def both(root: Path, progress=lambda step: None) -> None:
    """An update and a compaction, as far as they have not been done."""
    world = World()
    edit(world)
    world.update(root, progress=progress)
    compact_index(root, progress=progress)


@pytest.fixture(scope="module")
def straight(base, tmp_path_factory) -> dict[str, str]:
    """Every file of an update and a compaction that nothing disturbed."""
    root, steps = shutil.copytree(base, tmp_path_factory.mktemp("straight") / "index"), []
    both(root, steps.append)
    assert len(steps) == 12, steps
    return bytes_of(root)


@pytest.mark.parametrize("crash", range(12))
def test_killed_at_any_step_the_old_version_answers_and_the_next_run_ends_like_one_that_was_not(crash, root, straight):
    def progress(step):
        seen.append(step)
        if len(seen) == crash + 1:
            raise Killed

    seen = []
    with pytest.raises(Killed):
        both(root, progress)
    changed = World()
    edit(changed)
    version = read_version_manifest(root).version
    (World() if version == 1 else changed).check(root)
    both(root)
    left = {name: text for name, text in bytes_of(root).items() if not name.startswith("staging/")}
    assert left == straight  # killed after the switch, it leaves records of its steps, which are collected later


# Bytes a file, and the version that is served then: the look-ups, the largest files, have 16 KiB in the update and more
# in the compaction.
@pytest.mark.parametrize(
    ("size", "version"), [(0, 1), (250, 1), (1_200, 1), (6_000, 1), (16_000, 1), (17_000, 2), (20_000, 2)]
)
def test_a_full_disk_in_an_update_or_a_compaction_is_named_and_leaves_what_is_served(size, version, root, straight):
    with pytest.raises(OSError) as full, files_of_at_most(size):  # noqa: PT011
        both(root)
    assert full.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert str(root) in str(full.value), "the message says where"
    assert read_version_manifest(root).version == version
    changed = World()
    edit(changed)
    (World() if version == 1 else changed).check(root)
    both(root)
    left = {name: text for name, text in bytes_of(root).items() if not name.startswith("staging/")}
    assert left == straight


KILLS = """
import os, random, signal, sys, time
from pathlib import Path
from index.building import compact_index
from index.versions import verify_version
from tests.helpers.killed_updates import judge
from tests.helpers.killed_updates import state

root, wanted = Path(sys.argv[1]), int(sys.argv[2])
rng, kills, number = random.Random(0), 0, 1

def work():
    world = state(number)
    world.update(root, gate=judge(world))
    if number % 2:
        compact_index(root, gate=judge(world))

def answered():  # the step that the published version stands for
    verify_version(root)
    for step in (number, number - 1):
        try:
            state(step).check(root)
            return step
        except AssertionError:
            continue
    raise AssertionError(f"neither step {number} nor the one before")

state(0).update(root, gate=judge(state(0)))
began = time.perf_counter()
work()
took = time.perf_counter() - began
while kills < wanted:
    number += answered() == number
    child = os.fork()
    if not child:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    time.sleep(rng.uniform(0, took))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL), status
    kills += status == signal.SIGKILL
work()
state(number).check(root)
"""


def test_kill_9_at_random_moments_of_updates_and_compactions(root):
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    command = [sys.executable, "-c", KILLS, str(root), str(KILLED)]
    folder = Path(__file__).parents[3]
    done = subprocess.run(
        command, cwd=folder, env=alone, capture_output=True, text=True, timeout=20 * KILLED, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
