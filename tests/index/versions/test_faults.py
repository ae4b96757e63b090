"""Faults of machine and people: nothing is lost, the last good version answers, the message says what to do."""

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

from index.versions.folder import index_write_lock, list_versions, read_current
from index.versions.garbage import collect_garbage
from index.versions.switch import verify_version
from tests.helpers.index_faults import answers_rightly, files_of_at_most
from tests.helpers.index_live import expected, named, publish

HERE = Path(__file__).parents[3]
KILLS = """
import json, os, random, signal, sys, time
from pathlib import Path
from index.search import Index
from index.versions import add_tag, collect_garbage, list_versions, read_current, rollback, verify_version
from tests.helpers.index_faults import answers_rightly
from tests.helpers.index_live import expected
from tests.helpers.index_live import publish

root, kills, wanted = Path(sys.argv[1]), 0, int(sys.argv[2])
rng, right = random.Random(5), expected(range(1, 2 * wanted + 2))

def work(seed):  # what a child does until it is killed
    publish(root, seed, gated=True)
    if seed % 3 == 0 and len(list_versions(root)) > 1:
        collect_garbage(root, keep=2)
        rollback(root, list_versions(root)[-2])
        add_tag(root, "kept", list_versions(root)[-1], move=True)
        publish(root, seed, gated=True)

def forked(what, *arguments, after=None):  # the status of a child
    child = os.fork()
    if not child:
        try:
            what(*arguments)
        except BaseException:
            import traceback; traceback.print_exc()
            os._exit(1)
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitpid(child, 0)[1]

publish(root, 1)
took = time.perf_counter()
assert forked(work, 3) == 0
took = time.perf_counter() - took
seed = 4
while kills < wanted:
    status = forked(work, seed, after=rng.uniform(0, 1.1 * took))
    assert status in (0, signal.SIGKILL), status
    kills += status == signal.SIGKILL
    took *= 1.02 if status else 0.9  # a busy machine may have been slow at first
    assert forked(answers_rightly, root, right) == 0, f"after kill {kills}"
    seed = (seed + (rng.random() < 0.5 or status == 0)) % (2 * wanted) + 1
assert forked(work, seed) == 0
print(json.dumps({"kills": kills, "seed": seed}))
"""


def test_fifty_kills_at_random_moments_lose_nothing(tmp_path):
    root = tmp_path / "index"
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}  # threads do not survive a fork
    command = [sys.executable, "-c", KILLS, str(root), "50"]
    done = subprocess.run(command, cwd=HERE, env=alone, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1])["kills"] == 50
    for version in list_versions(root):
        verify_version(root, version)
    collect_garbage(root)
    assert {path.name for path in root.glob("objects/*/*")} == named(root)
    assert {path.name for path in root.iterdir()} <= {
        *("CURRENT", "versions", "objects", "tags", "staging", "events.jsonl", "verified.json", ".writer")
    }


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("built") / "index"
    publish(root, 1)
    return root


@pytest.mark.parametrize("size", [0, 300, 1_500, 2_500, 3_500, 5_000, 8_000, 15_000])
def test_a_full_disk_is_named_and_what_was_served_still_is(size, built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    with pytest.raises(OSError) as full, files_of_at_most(size):  # noqa: PT011
        publish(root, 2)
    assert full.value.errno in (errno.EFBIG, errno.ENOSPC)
    assert str(root) in str(full.value), "the message says where"
    assert (read_current(root)["version"], list_versions(root)) == (1, [1])
    answers_rightly(root, expected(range(1, 2)))
    publish(root, 2)
    answers_rightly(root, expected(range(2, 3)))


def test_what_cannot_be_noted_down_is_published_all_the_same(built, tmp_path, caplog):
    root = shutil.copytree(built, tmp_path / "index")
    (root / "events.jsonl").unlink()
    (root / "events.jsonl").mkdir()
    publish(root, 2)
    assert read_current(root)["version"] == 2
    assert "published of version 2 is not in" in caplog.text


def test_a_clock_that_goes_back_changes_nothing(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    ahead = time.time() + 9e6
    for path in root.rglob("*"):
        os.utime(path, (ahead, ahead))
    publish(root, 2)
    publish(root, 3)
    assert collect_garbage(root, keep=1).versions == [1, 2]
    answers_rightly(root, expected(range(3, 4)))
    with index_write_lock(root):
        os.utime(root / ".writer", (ahead, ahead))
        with pytest.raises(ValueError, match=r"being written by process \d+ \(.*\) on .* \(0 min ago\)"):
            publish(root, 4)


HOLD = """
import sys, time
from index.versions.folder import index_write_lock
with index_write_lock(sys.argv[1]):
    print("held", flush=True)
    time.sleep(99)
"""


def test_a_lock_says_who_holds_it_and_goes_with_its_process(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    with subprocess.Popen([sys.executable, "-c", HOLD, root], cwd=HERE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"held\n"
        os.utime(root / ".writer", (time.time() - 600, time.time() - 600))
        with pytest.raises(ValueError, match=rf"by process {holder.pid} \(python.* -c .*\(10 min ago\)\. Wait until"):
            publish(root, 2)
        holder.kill()
    assert re.search(r"process \d+", (root / ".writer").read_text()), "its name is still there, and harmless"
    publish(root, 2)
    assert read_current(root)["version"] == 2


PUBLISH = """
import sys, time
from tests.helpers.index_live import publish
refused = 0
for seed in map(int, sys.argv[2:]):
    while True:
        try:
            publish(sys.argv[1], seed)
            break
        except ValueError as error:
            assert "is being written by" in str(error), error  # at times before the other has signed
            refused += 1
            time.sleep(0.01)
print(refused)
"""


def test_two_publishers_never_share_a_number(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    seeds = (("2", "3", "4", "5"), ("6", "7", "8", "9"))
    pipes = {"cwd": HERE, "stdout": subprocess.PIPE}
    both = [subprocess.Popen([sys.executable, "-c", PUBLISH, root, *mine], **pipes) for mine in seeds]
    assert [process.communicate()[1] or process.returncode for process in both] == [0, 0]
    assert list_versions(root) == list(range(1, 10))
    assert sorted(verify_version(root, version).provenance["seed"] for version in list_versions(root)) == list(
        range(1, 10)
    )
    answers_rightly(root, expected(range(1, 10)))
