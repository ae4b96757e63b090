"""Equal inputs give equal bytes, a crash at any step harms nothing, and damage is named and repaired."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from data.io.digests import sha256_file
from index.building.build import build_index
from index.collection import Collection, IndexInputs
from index.config import GateConfig
from index.quality.gate import make_gate
from index.search.index import Index
from index.versions.events import FILE, read_events
from index.versions.folder import insert_checksum, list_versions, manifest_path, read_current
from index.versions.manifest import CHECKSUM_PLACEHOLDER
from index.versions.objects import ObjectRef, object_path
from index.versions.switch import RejectedError, rollback, verify_version
from index.versions.verdict import GateCheck, GateVerdict
from tests.helpers.index_publish import CONFIG, bytes_of, publish
from tests.helpers.index_updates import CONFIG as UPDATE_CONFIG
from tests.helpers.index_updates import World
from tests.helpers.index_world import make

STEPS = [
    *[
        f"{kind}/{name}"
        for kind in ("image", "caption")
        for name in ("trained-index", "shard-0000", "shard-0001", "tuned")
    ],
    "manifest",
    "switched",
]


def modification_times(root: Path) -> dict[Path, int]:
    return {
        path: path.stat().st_mtime_ns
        for path in root.rglob("*")
        if path.is_file() and path.name not in (".writer", FILE)
    }


def first_hit(root: Path) -> tuple[int, str]:
    """Return the published version and the id of the first hit of a query."""
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
def uninterrupted(two) -> dict[str, str]:
    return bytes_of(two)


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    collections, queries = make(1, images=60)
    rng = np.random.default_rng(0)
    shuffled = {}
    for kind, old in collections.items():
        vector_by_id = dict(zip(old.ids, old.vectors.astype(np.float16), strict=True))
        ids = list(rng.permutation(old.ids))
        rows = [old.metadata[i] for i in rng.permutation(len(old.metadata))]

        def read(names, vector_by_id=vector_by_id):
            return np.stack([vector_by_id[name] for name in names])

        shuffled[kind] = Collection(ids, read, rows)
    build_index(CONFIG, IndexInputs(collections, queries), tmp_path / "a")
    build_index(CONFIG, IndexInputs(dict(reversed(shuffled.items())), queries), tmp_path / "b")
    assert bytes_of(tmp_path / "a") == bytes_of(tmp_path / "b")


def test_equal_inputs_are_built_once(tmp_path):
    steps: list[str] = []
    first = publish(tmp_path, 1, steps.append)
    assert steps == STEPS
    before = modification_times(tmp_path)
    steps.clear()
    assert publish(tmp_path, 1, steps.append) == first
    assert steps == ["switched"]
    assert modification_times(tmp_path) == before


def change_text(collections, queries, config):
    old = collections["caption"]
    rows = [old.metadata[0]._replace(text="something else"), *old.metadata[1:]]
    return {**collections, "caption": replace(old, metadata=rows)}, queries, config


def change_vectors(collections, queries, config):
    old = collections["image"]
    return {**collections, "image": replace(old, vectors=old.vectors[::-1])}, queries, config


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (change_text, 1),
        (change_vectors, 1),
        (lambda c, q, config: (c, {**q, "image": q["image"][::-1]}, config), 1),
        (lambda c, q, config: (c, q, config.model_copy(update={"seed": 5})), 1),
        (lambda c, q, config: (c, q, config), 2),
    ],
    ids=["text", "vector", "queries", "config", "provenance"],
)
def test_any_other_input_gives_another_version(change, model, built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    collections, queries, config = change(*make(1, images=60), CONFIG)
    assert build_index(config, IndexInputs(collections, queries, {"seed": model}), root).name == "v00000002.json"


@pytest.mark.parametrize("crash_at", STEPS)
def test_crash_at_any_step_keeps_published_version_and_next_build_resumes(crash_at, built, uninterrupted, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    before = first_hit(root)

    def crash(step: str) -> None:
        if step == crash_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(root, 2, crash)
    if crash_at == "switched":
        assert first_hit(root)[0] == 2
    else:
        assert first_hit(root) == before
    written = {path: path.stat().st_mtime_ns for path in root.glob("objects/*/*")}
    publish(root, 2)
    assert bytes_of(root) == uninterrupted
    assert written.items() <= {path: path.stat().st_mtime_ns for path in root.glob("objects/*/*")}.items()
    verify_version(root)


KILL_SCRIPT = """
import os, signal, sys
from pathlib import Path
from tests.helpers.index_publish import publish
def kill(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), 2, kill)
"""


@pytest.mark.slow
@pytest.mark.parametrize("kill_at", ["caption/shard-0000", "manifest"])
def test_kill_9_keeps_published_version_and_next_build_resumes(kill_at, built, uninterrupted, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    before = first_hit(root)
    repository = Path(__file__).parents[3]
    process = subprocess.run([sys.executable, "-c", KILL_SCRIPT, root, kill_at], cwd=repository, check=False)
    assert process.returncode == -signal.SIGKILL
    assert first_hit(root) == before
    publish(root, 2)
    assert bytes_of(root) == uninterrupted


def test_second_writer_is_rejected(tmp_path):
    def publish_inside(step: str) -> None:
        if step == "image/tuned":
            holder = rf"is being written by process {os.getpid()} \(.+\) on .* since .* \(0 min ago\)\. Wait"
            with pytest.raises(ValueError, match=holder):
                publish(tmp_path, 2)

    publish(tmp_path, 1, publish_inside)
    assert list_versions(tmp_path) == [1]


def test_rollback_leaves_open_reader_on_its_version(tmp_path):
    publish(tmp_path, 1)
    before = first_hit(tmp_path)
    with Index.open(tmp_path) as reader:
        publish(tmp_path, 2)
        assert (list_versions(tmp_path), read_current(tmp_path).version, reader.version) == ([1, 2], 2, 1)
        assert reader.search(make(1, images=60)[1]["image"][:1], 1)[0][0].id == before[1] != first_hit(tmp_path)[1]
    rollback(tmp_path, 1)
    assert first_hit(tmp_path) == before
    with Index.open(tmp_path) as one, Index.open(tmp_path, version=2) as two:
        assert (one.version, two.version, two.manifest.parent) == (1, 2, 1)
    with pytest.raises(FileNotFoundError, match=r"no version 9.*present: 1, 2"):
        rollback(tmp_path, 9)


def test_open_requires_published_version(tmp_path):
    with pytest.raises(FileNotFoundError, match="Run `tern index --plan PLAN` first"):
        Index.open(tmp_path)


def flip_bit(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 99)


def exchange_texts(path: Path) -> None:
    """Exchange the texts of two captions, as a faulty tool would: same rows, same size."""
    content = path.read_bytes()
    one, two = sorted(set(re.findall(rb"text of \d{4}.jpg#\d", content)))[:2]
    path.chmod(0o644)
    path.write_bytes(content.replace(one, b"@" * len(one)).replace(two, one).replace(b"@" * len(one), two))


def edit_manifest(change: Callable[[dict], None]) -> Callable[[Path], None]:
    """Return a function that changes a manifest, its checksum and CURRENT, so that only its content can be wrong."""

    def damage(path: Path) -> None:
        manifest = json.loads(path.read_text())
        change(manifest)
        path.chmod(0o644)
        path.write_text(insert_checksum(json.dumps({**manifest, "sha256": "0" * 64})))
        pointer = {"version": 2, "manifest_sha256": sha256_file(path)}
        (path.parent.parent / "CURRENT").write_text(json.dumps(pointer))

    return damage


def set_outside_path(manifest: dict) -> None:
    manifest["collections"]["image"]["trained_index"]["sha256"] = "../../../etc/passwd"


def miscount(manifest: dict) -> None:
    manifest["collections"]["image"]["counts"]["live"] += 1


def find_target(root: Path, target: str) -> Path:
    """Return the file of version 2 that a case damages."""
    if target == "CURRENT":
        return root / target
    manifest = json.loads(manifest_path(root, 2).read_text())
    if target == "manifest":
        return manifest_path(root, 2)
    kind, part = target.split()
    collection_manifest = manifest["collections"][kind]
    return object_path(
        root,
        ObjectRef(**(collection_manifest[part] if part == "trained_index" else collection_manifest["shards"][1][part])),
    )


# target, damage, whether `Index.open` must find it (otherwise only `verify_version` does), message
DAMAGE = {
    "bit of lists": (
        "caption inverted_lists",
        flip_bit,
        False,
        r"caption inverted_lists of shard 1: .* is damaged or of another index: its sha256",
    ),
    "bit of vectors": (
        "image vectors",
        flip_bit,
        False,
        r"image vectors of shard 1: .* is damaged or of another index: its sha256",
    ),
    "bit of centroids": (
        "image trained_index",
        flip_bit,
        True,
        r"image trained index: .* is damaged or of another index",
    ),
    "short lists": (
        "caption inverted_lists",
        truncate,
        True,
        r"inverted_lists of shard 1: .* has 99 bytes, the manifest lists \d+: trunc",
    ),
    "no lists": (
        "caption inverted_lists",
        Path.unlink,
        True,
        r"inverted_lists of shard 1: .* is missing, but the manifest lists it",
    ),
    "shuffled lookup": (
        "caption lookup",
        exchange_texts,
        True,
        r"lookup of shard 1: .* is damaged or of another index",
    ),
    "bit of Parquet": ("caption metadata", flip_bit, False, r"caption metadata of shard 1"),
    "bit of the manifest": ("manifest", flip_bit, True, r"not the manifest that CURRENT names"),
    "no manifest": ("manifest", Path.unlink, True, r"CURRENT names version 2: .* is missing"),
    "outside": (
        "manifest",
        edit_manifest(set_outside_path),
        True,
        r"collections.image.trained_index.sha256: String should match.*Roll back",
    ),
    "unknown key": (
        "manifest",
        edit_manifest(lambda m: m.update(x=1)),
        True,
        r"is not a manifest: x: Extra inputs",
    ),
    "other counts": (
        "manifest",
        edit_manifest(miscount),
        True,
        r"the shards have 60 rows, 0 of them deleted, but counts is",
    ),
    "other schema": (
        "manifest",
        edit_manifest(lambda m: m.update(schema=8)),
        True,
        r"index has index schema 8, written by a newer version of this program; this version reads schema 7",
    ),
    "other number": (
        "manifest",
        edit_manifest(lambda m: m.update(version=7)),
        True,
        r"contains version 7: it was renamed or copied",
    ),
    "CURRENT nowhere": (
        "CURRENT",
        lambda p: p.write_text('{"version": 7, "manifest_sha256": "0"}'),
        True,
        r"CURRENT names version 7: .* is missing",
    ),
    "CURRENT incomplete": ("CURRENT", lambda p: p.write_text('{"version": 7}'), True, r"does not name a version"),
    "CURRENT cut": ("CURRENT", lambda p: os.truncate(p, 20), True, r"CURRENT is not valid JSON"),
    "CURRENT odd": ("CURRENT", lambda p: p.write_text("[]"), True, r"does not name a version"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_repaired(case, two, tmp_path):
    target, damage, seen_by_open, message = DAMAGE[case]
    root = shutil.copytree(two, tmp_path / "index")
    damage(find_target(root, target))
    for check in (Index.open, verify_version) if seen_by_open else (verify_version,):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            check(root)
    rollback(root, 1)
    assert first_hit(root)[0] == 1
    publish(root, 2)  # the version of equal inputs does not verify: it is rebuilt, or found undamaged
    assert verify_version(root).provenance == {"seed": 2}
    assert first_hit(root)[0] == (2 if target == "CURRENT" or case == "no manifest" else 3)
    if target not in ("CURRENT", "manifest"):
        assert verify_version(root, 2), "the damaged object is replaced for every version that lists it"


def test_index_of_schema_1_is_named_and_can_be_built_over(tmp_path):
    (tmp_path / "versions/v00000004").mkdir(parents=True)
    (tmp_path / "CURRENT").write_text('{"version": 4, "manifest_sha256": "0"}')
    with pytest.raises(ValueError, match=r"has index schema 1, written by an older version .*run 'tern index' again"):
        Index.open(tmp_path)
    publish(tmp_path, 1)
    assert first_hit(tmp_path)[0] == 5


def test_index_of_schema_2_is_named_and_can_be_built_over(built, tmp_path):
    root = shutil.copytree(built, tmp_path / "index")
    path = manifest_path(root, 1)
    manifest = json.loads(path.read_text()) | {"schema": 2}
    path.chmod(0o644)
    path.write_text(json.dumps(manifest))
    (root / "CURRENT").write_text(json.dumps({"version": 1, "manifest_sha256": sha256_file(path)}))
    message = (
        f"{root} has index schema 2, written by version 0.1 of this program; this version reads schema 7. "
        f"Delete {root} and run 'tern index' again, or install version 0.1."
    )
    for read in (Index.open, verify_version):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            read(root)
    publish(root, 1)
    assert first_hit(root)[0] == 2


@pytest.mark.parametrize("schema", [3, 4, 5])
def test_index_of_schemas_3_to_5_is_read_and_updated(schema, tmp_path):
    """Schema 5 lacks row vectors, 4 also calibrations, 3 the sources of the queries and the checks not made."""
    world, gate = World(has_rows=False), make_gate(GateConfig(), {}, World().collections())
    build_index(UPDATE_CONFIG, world.inputs(), tmp_path, gate=gate)
    path = manifest_path(tmp_path, 1)
    content = json.loads(path.read_text()) | {"schema": schema, "sha256": CHECKSUM_PLACEHOLDER}
    for part in ("query_sources", "not_checked") if schema == 3 else ():
        del content["gate"][part]
    del content["config"]["rerank"]
    for collection in content["collections"].values():
        del collection["alignment"], collection["search"]["rerank"]
        for shard in collection["shards"]:
            del shard["row_vectors"]
        if schema < 5:
            del collection["calibration"]
        if schema == 3:
            del collection["recall"]["query_source"]
    path.chmod(0o644)
    path.write_text(insert_checksum(json.dumps(content)))
    (tmp_path / "CURRENT").write_text(json.dumps({"version": 1, "manifest_sha256": sha256_file(path)}))
    assert verify_version(tmp_path, 1).collections["image"].recall.query_source == "held-out"
    world.check(tmp_path)
    world.remove("image", "0003.jpg")
    assert world.update(tmp_path, gate=gate) == manifest_path(tmp_path, 2)
    world.check(tmp_path)
    assert json.loads(manifest_path(tmp_path, 2).read_text())["schema"] == 7


def test_rejected_candidate_is_kept_and_served_version_does_not_change(tmp_path):
    publish(tmp_path, 1)
    before, calls = first_hit(tmp_path), []

    def judge(candidate: Index, served: Index | None) -> GateVerdict:
        calls.append((candidate.version, served.version))
        best = candidate.search(make(2, images=60)[1]["image"][:1], 1)[0][0]
        check = GateCheck(passed=best.score > 2, value=best.score)
        return GateVerdict(passed=best.score > 2, reason=f"no hit above {2 + len(calls)}", checks={"best": check})

    def build(gate=judge) -> Path:
        return build_index(CONFIG, IndexInputs(*make(2, images=60), {"seed": 2}), tmp_path, gate=gate)

    for reason, file in (("no hit above 3", manifest_path(tmp_path, 2)), ("no hit above 4", tmp_path / FILE)):
        message = rf"Version 2 did not .*{reason}\. .* verdict is in {file}; version 1 is still served"
        with pytest.raises(RejectedError, match=message) as rejected:  # judged twice, but kept once
            build()
        event = read_events(tmp_path)[-1]
        assert (event.event, event.gate.reason) == ("rejected", reason)
        assert (rejected.value.version, list(rejected.value.checks)) == (2, ["best"])
        assert (first_hit(tmp_path), list_versions(tmp_path)) == (before, [1, 2])
    assert calls == [(2, 1), (3, 1)]
    with pytest.raises(RejectedError, match="Version 2 did not pass"):
        rollback(tmp_path, 2)
    assert first_hit(tmp_path) == before
    assert json.loads(manifest_path(tmp_path, 2).read_text())["gate"]["reason"] == "no hit above 3"
    build(lambda candidate, served: GateVerdict(passed=True))
    assert first_hit(tmp_path)[0] == 3
    build()
    assert len(calls) == 2, "the served version is not judged again"
    rollback(tmp_path, 1)
    with pytest.raises(
        RejectedError, match=r"Version 3 did not pass its gate: no hit above 5\..*version 1 is still served"
    ):
        build()
    assert (first_hit(tmp_path), calls[2:], verify_version(tmp_path, 3).is_rejected) == (before, [(3, 1)], False)
    build(lambda candidate, served: GateVerdict(passed=candidate.version == 3 and served.version == 1))
    assert (first_hit(tmp_path)[0], list_versions(tmp_path)) == (3, [1, 2, 3])
