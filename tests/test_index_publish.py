"""Versions: equal input gives equal bytes, a crash at any step harms nothing, damage is named and mended."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from data.files import sha256_file
from index import Collection, Index, IndexConfig, build, current, rollback, verify, versions
from index.publish import version_folder
from tests.test_index import make

CONFIG = IndexConfig(shards=2, nlist=4)
STEPS = [
    "staged",
    *[f"image/{name}" for name in ("template.faiss", "shard-0000.lists", "shard-0001.lists")],
    "image tuned",
    *[f"caption/{name}" for name in ("template.faiss", "shard-0000.lists", "shard-0001.lists")],
    "caption tuned",
    "metadata.parquet",
    "lookup.sqlite",
    "manifest",
    "renamed",
    "switched",
]


def publish(root: Path, seed: int, progress: Callable[[str], None] = lambda step: None) -> Path:
    return build(CONFIG, *make(seed, images=60), root, provenance={"seed": seed}, progress=progress)


def bytes_of(root: Path) -> dict[str, str]:
    return {str(path.relative_to(root)): sha256_file(path) for path in sorted(root.rglob("*")) if path.is_file()}


def times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*") if path.is_file() and path.name != ".writer"}


def first_hit(root: Path) -> tuple[int, str]:
    with Index.open(root) as index:
        return index.version, index.search(make(1, images=60)[1]["image"][:1], 1)[0][0].id


@pytest.fixture(scope="module")
def straight(tmp_path_factory) -> dict[str, str]:
    """The bytes of two builds, one after the other, without a crash."""
    root = tmp_path_factory.mktemp("straight")
    publish(root, 1)
    publish(root, 2)
    return bytes_of(root)


def test_equal_content_gives_equal_bytes_in_any_order(tmp_path):
    collections, queries = make(1, images=60)
    rng = np.random.default_rng(0)
    mixed = {}
    for kind, old in collections.items():
        by_id = dict(zip(old.ids, old.vectors.astype(np.float16), strict=True))
        names = list(rng.permutation(old.ids))
        rows = list(rng.permutation(np.array(old.rows, dtype=object)))
        reader = lambda wanted, by_id=by_id: np.stack([by_id[name] for name in wanted])  # noqa: E731
        mixed[kind] = Collection(names, reader, rows)
    build(CONFIG, collections, queries, tmp_path / "a")
    build(CONFIG, dict(reversed(mixed.items())), queries, tmp_path / "b")
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
    rows = [{**old.rows[0], "text": "something else"}, *old.rows[1:]]
    return {**collections, "caption": Collection(old.ids, old.vectors, rows)}, queries, config


def other_vector(collections, queries, config):
    old = collections["image"]
    return {**collections, "image": Collection(old.ids, old.vectors[::-1], old.rows)}, queries, config


@pytest.mark.parametrize(
    ("change", "model"),
    [
        (other_text, "a"),
        (other_vector, "a"),
        (lambda c, q, config: (c, {**q, "image": q["image"][::-1]}, config), "a"),
        (lambda c, q, config: (c, q, config.model_copy(update={"seed": 5})), "a"),
        (lambda c, q, config: (c, q, config), "b"),
    ],
    ids=["text", "vector", "queries", "config", "provenance"],
)
def test_any_other_input_is_another_version(change, model, tmp_path):
    collections, queries, config = *make(1, images=60), CONFIG
    build(config, collections, queries, tmp_path, provenance={"model": "a"})
    collections, queries, config = change(collections, queries, config)
    assert build(config, collections, queries, tmp_path, provenance={"model": model}).name == "v00000002"


@pytest.mark.parametrize("crash_at", STEPS)
def test_crash_at_any_step(crash_at, straight, tmp_path):
    publish(tmp_path, 1)
    answered = first_hit(tmp_path)

    def crash(step: str) -> None:
        if step == crash_at:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        publish(tmp_path, 2, crash)
    if crash_at == "switched":
        assert first_hit(tmp_path)[0] == 2
    else:
        assert first_hit(tmp_path) == answered
    publish(tmp_path, 2)
    assert bytes_of(tmp_path) == straight
    verify(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
from tests.test_index_publish import publish
def kill(step):
    if step == sys.argv[2]:
        os.kill(os.getpid(), signal.SIGKILL)
publish(Path(sys.argv[1]), 2, kill)
"""


@pytest.mark.parametrize("kill_at", ["caption/shard-0000.lists", "manifest", "renamed"])
def test_kill_9(kill_at, straight, tmp_path):
    publish(tmp_path, 1)
    answered = first_hit(tmp_path)
    here = Path(__file__).parent.parent
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, kill_at], cwd=here, env=os.environ, check=False)
    assert done.returncode == -signal.SIGKILL
    assert first_hit(tmp_path) == answered
    publish(tmp_path, 2)
    assert bytes_of(tmp_path) == straight


def test_one_writer_at_a_time(tmp_path):
    def intrude(step: str) -> None:
        if step == "image tuned":
            with pytest.raises(ValueError, match=r"another process is building.*wait for it"):
                publish(tmp_path, 2)

    publish(tmp_path, 1, intrude)
    assert versions(tmp_path) == [1]


def test_rollback_and_an_open_reader(tmp_path):
    publish(tmp_path, 1)
    answered = first_hit(tmp_path)
    with Index.open(tmp_path) as reader:
        publish(tmp_path, 2)
        assert (versions(tmp_path), current(tmp_path)["version"], reader.version) == ([1, 2], 2, 1)
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
    path.write_bytes(content)


def shuffle_texts(path: Path) -> None:
    """Swap two captions' metadata as a careless tool would: same rows, same size, other owners."""
    content = path.read_bytes()
    one, two = b"text of 0003.jpg#0", b"text of 0004.jpg#0"
    assert one in content
    path.write_bytes(content.replace(one, b"@" * len(one)).replace(two, one).replace(b"@" * len(one), two))


def swap(name: str) -> Callable[[Path], None]:
    """Put the other version's file in its place."""
    return lambda path: path.write_bytes((version_folder(path.parents[2], 1) / name).read_bytes())


SHARD = "caption/shard-0001.lists"
# what is damaged, how, whether opening must see it (else only verify does), what is said
DAMAGE = {
    "bit of a shard": (SHARD, flip, False, r"shard-0001.lists is damaged or foreign: sha256"),
    "bit of centroids": ("image/template.faiss", flip, True, r"template.faiss is damaged or foreign"),
    "short shard": (SHARD, lambda p: os.truncate(p, 99), True, r"has 99 bytes, the manifest says \d+: truncated"),
    "no shard": (SHARD, Path.unlink, True, r"shard-0001.lists is missing, but the manifest lists it"),
    "shuffled look-up": ("lookup.sqlite", shuffle_texts, True, r"lookup.sqlite is damaged or foreign"),
    "foreign look-up": ("lookup.sqlite", swap("lookup.sqlite"), True, r"lookup.sqlite is damaged or foreign"),
    "foreign Parquet": ("metadata.parquet", swap("metadata.parquet"), False, r"metadata.parquet"),
    "bit of the manifest": ("manifest.json", flip, True, r"not the manifest that CURRENT names"),
    "no manifest": ("manifest.json", Path.unlink, True, r"CURRENT names version 2, but .* is missing"),
    "CURRENT nowhere": ("../../CURRENT", lambda p: p.write_text('{"version": 7}'), True, r"names version 7, but"),
    "CURRENT cut": ("../../CURRENT", lambda p: os.truncate(p, 20), True, r"CURRENT is not valid JSON"),
    "CURRENT odd": ("../../CURRENT", lambda p: p.write_text("[]"), True, r"does not name a version"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_damage_is_named_and_can_be_mended(case, tmp_path):
    name, harm, seen_by_open, message = DAMAGE[case]
    publish(tmp_path, 1)
    folder = publish(tmp_path, 2)
    harm(folder / name)
    for look in (Index.open, verify) if seen_by_open else (verify,):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            look(tmp_path)
    rollback(tmp_path, 1)
    assert first_hit(tmp_path)[0] == 1
    publish(tmp_path, 2)  # equal inputs, but what is there does not verify: made again, or found whole
    assert verify(tmp_path)["provenance"] == {"seed": 2}
    assert first_hit(tmp_path)[0] == (2 if name == "../../CURRENT" else 3)
