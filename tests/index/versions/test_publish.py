"""Versions: equal input gives equal bytes, a crash at any step harms nothing, damage is named and mended."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.io.digests import sha256_file
from index.building.build import build_index
from index.collection import Collection
from index.search.index import Index
from index.versions.events import FILE, read_events
from index.versions.folder import insert_checksum, list_versions, manifest_path, read_current
from index.versions.objects import ObjectRef, object_path
from index.versions.switch import RejectedError, rollback, verify_version
from tests.helpers.index_publish import CONFIG, bytes_of, publish
from tests.helpers.index_world import make

STEPS = [
    *[f"image/{name}" for name in ("template", "shard-0000", "shard-0001")],
    "image tuned",
    *[f"caption/{name}" for name in ("template", "shard-0000", "shard-0001")],
    "caption tuned",
    "manifest",
    "switched",
]


def times(root: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.name not in (".writer", FILE)
    }


def first_hit(root: Path) -> tuple[int, str]:
    with Index.open(root) as index:
        return index.version, index.search(make(1, images=60)[1]["image"][:1], 1)[0][0].id


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """One version."""
    root = tmp_path_factory.mktemp("built")
    publish(root, 1)
    return root


@pytest.fixture(scope="module")
def two(built, tmp_path_factory) -> Path:
    """Two builds, one after the other, without a crash."""
    root = shutil.copytree(built, tmp_path_factory.mktemp("two") / "index")
    publish(root, 2)
    return root


@pytest.fixture(scope="module")
def straight(two) -> dict[str, str]:
    return bytes_of(two)


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    collections, queries = make(1, images=60)
    rng = np.random.default_rng(0)
    mixed = {}
    for kind, old in collections.items():
        by_id = dict(zip(old.ids, old.vectors.astype(np.float16), strict=True))
        names = list(rng.permutation(old.ids))
        rows = list(rng.permutation(np.array(old.metadata, dtype=object)))
        reader = lambda wanted, by_id=by_id: np.stack([by_id[name] for name in wanted])  # noqa: E731
        mixed[kind] = Collection(names, reader, rows)
    build_index(CONFIG, collections, queries, tmp_path / "a")
    build_index(CONFIG, dict(reversed(mixed.items())), queries, tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_equal_inputs_are_built_once(tmp_path):
    steps: list[str] = []
    first = publish(tmp_path, 1, steps.append)
    assert steps == STEPS
    before = times(tmp_path)
    steps.clear()
    assert publish(tmp_path, 1, steps.append) == first
    assert steps == ["switched"]
    assert times(tmp_path) == before


def other_text(collections, queries, config):
    old = collections["caption"]
    rows = [{**old.metadata[0], "text": "something else"}, *old.metadata[1:]]
    return {**collections, "caption": Collection(old.ids, old.vectors, rows)}, queries, config


def other_vector(collections, queries, config):
    old = collections["image"]
    return {**collections, "image": Collection(old.ids, old.vectors[::-1], old.metadata)}, queries, config


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (other_text, 1),
        (other_vector, 1),
        (lambda c, q, config: (c, {**q, "image": q["image"][::-1]}, config), 1),
        (lambda c, q, config: (c, q, config.model_copy(update={"seed": 5})), 1),
        (lambda c, q, config: (c, q, config), 2),
    ],
    ids=["text", "vector", "queries", "config", "provenance"],
)
def test_any_other_input_is_another_version(change, model, built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    collections, queries, config = change(*make(1, images=60), CONFIG)
    assert build_index(config, collections, queries, root, provenance={"seed": model}).name == "v00000002.json"


@pytest.mark.parametrize("crash_at", STEPS)
def test_crash_at_any_step(crash_at, built, straight, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    answered = first_hit(root)

    def crash(step: str) -> None:
        if step == crash_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(root, 2, crash)
    if crash_at == "switched":
        assert first_hit(root)[0] == 2
    else:
        assert first_hit(root) == answered
    made = {path: path.stat().st_mtime_ns for path in root.glob("objects/*/*")}
    publish(root, 2)
    assert bytes_of(root) == straight
    assert made.items() <= {path: path.stat().st_mtime_ns for path in root.glob("objects/*/*")}.items()
    verify_version(root)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.helpers.index_publish import publish
def kill(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), 2, kill)
"""


@pytest.mark.parametrize("kill_at", ["caption/shard-0000", "manifest"])
def test_kill_9(kill_at, built, straight, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    answered = first_hit(root)
    here = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", KILLED, root, kill_at], cwd=here, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert first_hit(root) == answered
    publish(root, 2)
    assert bytes_of(root) == straight


def test_one_writer_at_a_time(tmp_path):
    def intrude(step: str) -> None:
        if step == "image tuned":
            holder = rf"is being written by process {os.getpid()} \(.+\) on .* since .* \(0 min ago\)\. Wait"
            with pytest.raises(ValueError, match=holder):
                publish(tmp_path, 2)

    publish(tmp_path, 1, intrude)
    assert list_versions(tmp_path) == [1]


def test_rollback_and_an_open_reader(tmp_path):
    publish(tmp_path, 1)
    answered = first_hit(tmp_path)
    with Index.open(tmp_path) as reader:
        publish(tmp_path, 2)
        assert (list_versions(tmp_path), read_current(tmp_path)["version"], reader.version) == ([1, 2], 2, 1)
        assert reader.search(make(1, images=60)[1]["image"][:1], 1)[0][0].id == answered[1] != first_hit(tmp_path)[1]
    rollback(tmp_path, 1)
    assert first_hit(tmp_path) == answered
    with Index.open(tmp_path) as one, Index.open(tmp_path, version=2) as two:
        assert (one.version, two.version, two.manifest["parent"]) == (1, 2, 1)
    with pytest.raises(FileNotFoundError, match=r"asked for version 9.*present: 1, 2"):
        rollback(tmp_path, 9)


def test_nothing_published(tmp_path):
    with pytest.raises(FileNotFoundError, match="run `tern index` first"):
        Index.open(tmp_path)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 99)


def shuffle_texts(path: Path) -> None:
    """Swap two captions' metadata as a careless tool would: same rows, same size, other owners."""
    content = path.read_bytes()
    one, two = sorted(set(re.findall(rb"text of \d{4}.jpg#\d", content)))[:2]
    path.chmod(0o644)
    path.write_bytes(content.replace(one, b"@" * len(one)).replace(two, one).replace(b"@" * len(one), two))


def edit(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Another manifest under a CURRENT that names its hash: only what it says can give it away."""

    def harm(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.chmod(0o644)
        path.write_text(insert_checksum(json.dumps({**manifest, "sha256": "0" * 64})))
        pointer = {"version": 2, "manifest_sha256": sha256_file(path)}
        (path.parent.parent / "CURRENT").write_text(json.dumps(pointer))

    return harm


def escape(manifest: dict) -> None:
    manifest["collections"]["image"]["trained_index"]["sha256"] = "../../../etc/passwd"


def miscount(manifest: dict) -> None:
    manifest["collections"]["image"]["counts"]["live"] += 1


def named(root: Path, what: str) -> Path:
    """The file of version 2 that a case harms."""
    if what == "CURRENT":
        return root / what
    manifest = json.loads(manifest_path(root, 2).read_text())
    if what == "manifest":
        return manifest_path(root, 2)
    kind, part = what.split()
    about = manifest["collections"][kind]
    return object_path(root, ObjectRef(**(about[part] if part == "trained_index" else about["shards"][1][part])))


# what is damaged, how, whether opening must see it (else only verify does), what is said
DAMAGE = {
    "bit of lists": ("caption lists", flip, False, r"caption lists of shard 1: .* is damaged or foreign: sha256"),
    "bit of vectors": ("image vectors", flip, False, r"image vectors of shard 1: .* is damaged or foreign: sha256"),
    "bit of centroids": ("image template", flip, True, r"image template: .* is damaged or foreign"),
    "short lists": ("caption lists", cut, True, r"lists of shard 1: .* has 99 bytes, the manifest says \d+: trunc"),
    "no lists": ("caption lists", Path.unlink, True, r"lists of shard 1: .* is missing, but the manifest lists it"),
    "shuffled look-up": ("caption lookup", shuffle_texts, True, r"lookup of shard 1: .* is damaged or foreign"),
    "bit of Parquet": ("caption metadata", flip, False, r"caption metadata of shard 1"),
    "bit of the manifest": ("manifest", flip, True, r"not the manifest that CURRENT names"),
    "no manifest": ("manifest", Path.unlink, True, r"CURRENT names version 2, but .* is missing"),
    "outside": (
        "manifest",
        edit(escape),
        True,
        r"collections.image.trained_index.sha256: String should match.*Roll back",
    ),
    "unknown key": ("manifest", edit(lambda m: m.update(x=1)), True, r"is not a manifest: x: Extra inputs"),
    "other counts": ("manifest", edit(miscount), True, r"shards hold 60 rows, 0 of them dead, but counts say"),
    "other schema": ("manifest", edit(lambda m: m.update(schema=4)), True, r"has schema 4, this program reads 3"),
    "other number": ("manifest", edit(lambda m: m.update(version=7)), True, r"says that it is version 7: foreign"),
    "CURRENT nowhere": ("CURRENT", lambda p: p.write_text('{"version": 7}'), True, r"names version 7, but"),
    "CURRENT cut": ("CURRENT", lambda p: os.truncate(p, 20), True, r"CURRENT is not valid JSON"),
    "CURRENT odd": ("CURRENT", lambda p: p.write_text("[]"), True, r"does not name a version"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_can_be_mended(case, two, tmp_path):
    what, harm, seen_by_open, message = DAMAGE[case]
    root = shutil.copytree(two, tmp_path / "index")
    harm(named(root, what))
    for look in (Index.open, verify_version) if seen_by_open else (verify_version,):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            look(root)
    rollback(root, 1)
    assert first_hit(root)[0] == 1
    publish(root, 2)  # equal inputs, but what is there does not verify: made again, or found whole
    assert verify_version(root).provenance == {"seed": 2}
    assert first_hit(root)[0] == (2 if what == "CURRENT" or case == "no manifest" else 3)
    if what not in ("CURRENT", "manifest"):
        assert verify_version(root, 2), "the object that was damaged is mended for every version that names it"


def test_an_index_of_an_older_schema_is_named_and_can_be_built_over(tmp_path):
    (tmp_path / "versions/v00000004").mkdir(parents=True)
    (tmp_path / "CURRENT").write_text('{"version": 4, "manifest_sha256": "0"}')
    with pytest.raises(ValueError, match=r"older program \(schema 1\).*run `tern index` to build again"):
        Index.open(tmp_path)
    publish(tmp_path, 1)
    assert first_hit(tmp_path)[0] == 5


def test_a_refused_candidate_is_kept_and_what_was_served_still_is(tmp_path):
    publish(tmp_path, 1)
    answered, asked = first_hit(tmp_path), []

    def gate(candidate: Index, served: Index | None) -> dict:
        asked.append((candidate.version, served.version))
        best = candidate.search(make(2, images=60)[1]["image"][:1], 1)[0][0]
        reason = f"no hit above {2 + len(asked)}"
        return {"passed": best.score > 2, "reason": reason, "checks": {"best": best.score}}

    make_it = lambda gate=gate: build_index(CONFIG, *make(2, images=60), tmp_path, {"seed": 2}, gate=gate)  # noqa: E731
    for reason, kept in (("no hit above 3", manifest_path(tmp_path, 2)), ("no hit above 4", tmp_path / FILE)):
        says = rf"version 2 did not .*{reason}\. .* verdict in {kept}; version 1 is served"
        with pytest.raises(RejectedError, match=says) as refused:  # judged again, but not kept twice
            make_it()
        assert (read_events(tmp_path)[-1]["event"], read_events(tmp_path)[-1]["gate"]["reason"]) == ("refused", reason)
        assert (refused.value.version, list(refused.value.checks)) == (2, ["best"])
        assert (first_hit(tmp_path), list_versions(tmp_path)) == (answered, [1, 2])
    assert asked == [(2, 1), (3, 1)]
    with pytest.raises(RejectedError, match="version 2 did not pass"):
        rollback(tmp_path, 2)
    assert first_hit(tmp_path) == answered
    assert json.loads(manifest_path(tmp_path, 2).read_text())["gate"]["reason"] == "no hit above 3"
    make_it(lambda candidate, served: {"passed": True})
    assert first_hit(tmp_path)[0] == 3
    make_it()
    assert len(asked) == 2, "what is served is not judged again"
    rollback(tmp_path, 1)
    with pytest.raises(RejectedError, match=r"version 3 did not pass its gate: no hit above 5\..*version 1 is served"):
        make_it()
    assert (first_hit(tmp_path), asked[2:], verify_version(tmp_path, 3).is_rejected) == (answered, [(3, 1)], False)
    make_it(lambda candidate, served: {"passed": candidate.version == 3 and served.version == 1})
    assert (first_hit(tmp_path)[0], list_versions(tmp_path)) == (3, [1, 2, 3])
