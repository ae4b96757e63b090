"""After kills, full disks, clock changes and competing writers nothing is lost, and the message says what to do."""

import errno
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from index.versions.folder import list_versions, read_current
from index.versions.garbage import collect_garbage
from index.versions.index_folder import index_write_lock
from index.versions.switch import verify_version
from tests.helpers.index_faults import assert_correct_answers, limit_file_size
from tests.helpers.index_live import exact_results, publish, referenced_hashes
from tests.helpers.repeats import WRITER_KILLS

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).parents[3]
KILL_SCRIPT = """
import json, os, random, signal, sys, time
from pathlib import Path
from index.search import Index
from index.versions import add_tag, collect_garbage, list_versions, read_current, rollback, verify_version
from tests.helpers.index_faults import assert_correct_answers
from tests.helpers.index_live import exact_results, publish

root, kills, num_kills = Path(sys.argv[1]), 0, int(sys.argv[2])
rng, expected = random.Random(5), exact_results(range(1, 2 * num_kills + 2))

def work(seed):  # what a child does until it is killed
    publish(root, seed, gated=True)
    if seed % 3 == 0 and len(list_versions(root)) > 1:
        collect_garbage(root, keep=2)
        rollback(root, list_versions(root)[-2])
        add_tag(root, "kept", list_versions(root)[-1], move=True)
        publish(root, seed, gated=True)

def run_in_child(function, *arguments, kill_after=None):  # returns the exit status of the child
    child = os.fork()
    if not child:
        try:
            function(*arguments)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

publish(root, 1)
start = time.perf_counter()
assert run_in_child(work, 3) == 0
seconds = time.perf_counter() - start
seed = 4
while kills < num_kills:
    status = run_in_child(work, seed, kill_after=rng.uniform(0, 1.1 * seconds))
    assert status in (0, signal.SIGKILL), status
    kills += status == signal.SIGKILL
    seconds *= 1.02 if status else 0.9  # a busy machine may have been slow at first
    assert run_in_child(assert_correct_answers, root, expected) == 0, f"after kill {kills}"
    seed = (seed + (rng.random() < 0.5 or status == 0)) % (2 * num_kills) + 1
assert run_in_child(work, seed) == 0
print(json.dumps({"kills": kills, "seed": seed}))
"""


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing(tmp_path):
    root = tmp_path / "index"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    command = [sys.executable, "-c", KILL_SCRIPT, str(root), str(WRITER_KILLS)]
    process = subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr[-3000:]
    assert json.loads(process.stdout.splitlines()[-1])["kills"] == WRITER_KILLS
    for version in list_versions(root):
        verify_version(root, version)
    collect_garbage(root)
    assert {path.name for path in root.glob("objects/*/*")} == referenced_hashes(root)
    assert {path.name for path in root.iterdir()} <= {
        *("CURRENT", "versions", "objects", "tags", "staging", "events.jsonl", "verified.json", ".writer")
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built") / "index"
    publish(root, 1)
    return root


@pytest.mark.parametrize("size", [0, 300, 1_500, 2_500, 3_500, 5_000, 8_000, 15_000])
def test_full_disk_is_named_and_keeps_served_version(size, built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    with pytest.raises(OSError) as full, limit_file_size(size):  # noqa: PT011  # the type of the error is checked below
        publish(root, 2)
    assert full.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert str(root) in str(full.value), "the message names the file"
    assert (read_current(root).version, list_versions(root)) == (1, [1])
    assert_correct_answers(root, exact_results(range(1, 2)))
    publish(root, 2)
    assert_correct_answers(root, exact_results(range(2, 3)))


def test_publish_succeeds_if_event_cannot_be_written(built, tmp_path, caplog):
    root = shutil.copytree(built, tmp_path / "index")
    (root / "events.jsonl").unlink()
    (root / "events.jsonl").mkdir()
    publish(root, 2)
    assert read_current(root).version == 2
    assert "The event `published` of version 2 was not written" in caplog.text


def test_clock_set_back_changes_nothing(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    future = time.time() + 9e6
    for path in root.rglob("*"):
        os.utime(path, (future, future))
    publish(root, 2)
    publish(root, 3)
    assert collect_garbage(root, keep=1).versions == [1, 2]
    assert_correct_answers(root, exact_results(range(3, 4)))
    with index_write_lock(root):
        os.utime(root / ".writer", (future, future))
        with pytest.raises(ValueError, match=r"being written by process \d+ \(.*\) on .* \(0 min ago\)"):
            publish(root, 4)


HOLD_SCRIPT = """
import sys, time
from index.versions.index_folder import index_write_lock
with index_write_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(99)
"""


def test_write_lock_names_holder_and_ends_with_its_process(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    with subprocess.Popen([sys.executable, "-c", HOLD_SCRIPT, root], cwd=REPOSITORY, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        os.utime(root / ".writer", (time.time() - 600, time.time() - 600))
        with pytest.raises(ValueError, match=rf"by process {holder.pid} \(python.* -c .*\(10 min ago\)\. Wait until"):
            publish(root, 2)
        holder.kill()
    assert re.search(r"process \d+", (root / ".writer").read_text()), "the file still names the process"
    publish(root, 2)
    assert read_current(root).version == 2


PUBLISH_SCRIPT = """
import sys, time
from tests.helpers.index_live import publish
rejections = 0
for seed in map(int, sys.argv[2:]):
    while True:
        try:
            publish(sys.argv[1], seed)
            break
        except ValueError as error:
            assert "is being written by" in str(error), error
            rejections += 1
            time.sleep(0.01)
print(rejections)
"""


@pytest.mark.slow
def test_two_writers_never_share_a_number(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    seeds = (("2", "3", "4", "5"), ("6", "7", "8", "9"))
    options = {"cwd": REPOSITORY, "stdout": subprocess.PIPE}
    writers = [
        subprocess.Popen([sys.executable, "-c", PUBLISH_SCRIPT, root, *arguments], **options) for arguments in seeds
    ]
    assert [process.communicate()[1] or process.returncode for process in writers] == [0, 0]
    assert list_versions(root) == list(range(1, 10))
    seeds = sorted(verify_version(root, version).provenance["seed"] for version in list_versions(root))
    assert seeds == list(range(1, 10))
    assert_correct_answers(root, exact_results(range(1, 10)))
