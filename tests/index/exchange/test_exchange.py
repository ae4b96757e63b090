"""Out to plain files that other software reads, in from folders that it made: the same answers; and the commands."""

import json
import re
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from index.building.build import build_index
from index.config import IndexConfig
from index.exchange.export import export_index
from index.exchange.import_vectors import import_index
from index.search.index import Index
from index.versions.folder import read_current
from index.versions.switch import RejectedError
from pipeline.cli.app import build_app as command_line
from tests.helpers.index_publish import CONFIG, publish
from tests.helpers.index_world import make

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("index")
    publish(folder, 1)
    publish(folder, 2)
    with pytest.raises(RejectedError):
        build_index(
            CONFIG, *make(3, images=60), folder, gate=lambda candidate, served: {"passed": False, "reason": "no"}
        )
    return folder


@pytest.fixture(scope="module")
def exported(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_index(root, folder)
    return folder


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_what_is_exported_answers_the_same_to_plain_libraries(kind, root, exported):
    queries = make(2, images=60)[1][kind]
    plain, rows = faiss.read_index(str(exported / f"{kind}.index")), pq.read_table(exported / f"{kind}.parquet")
    vectors = np.load(exported / f"{kind}.npy")
    name = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    with Index.open(root) as index:
        hits = index.search(queries, 5, kind)
    scores, keys = plain.search(queries, 5)
    assert [[name[key] for key in line] for line in keys.tolist()] == [[hit.id for hit in line] for line in hits]
    np.testing.assert_array_equal(scores, np.array([[hit.score for hit in line] for line in hits], np.float32))
    collection = make(2, images=60)[0][kind]
    assert sorted(rows["id"].to_pylist()) == sorted(collection.ids)
    np.testing.assert_array_equal(vectors.astype(np.float32), collection.read(rows["id"].to_pylist()))


def test_what_was_exported_can_be_imported(root, exported, tmp_path):
    import_index(CONFIG, exported, tmp_path / "index")
    with Index.open(root) as old, Index.open(tmp_path / "index") as new:
        for kind, queries in make(2, images=60)[1].items():
            assert new.search(queries, 5, kind, nprobe=99) == old.search(queries, 5, kind, nprobe=99)


def clip_retrieval(folder: Path, parts: int = 11, rows: int = 6) -> tuple[np.ndarray, list[str]]:
    """A folder as clip-retrieval's inference leaves it: its columns, its names of files, more than ten parts."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    vectors, paths = [], []
    for part in range(parts):
        images = RNG.standard_normal((rows, 16)) * 3
        texts = images + 0.2 * RNG.standard_normal((rows, 16))
        mine = [f"photos/{part}/{i}.jpg" for i in range(rows)]
        np.save(folder / f"img_emb/img_emb_{part}.npy", images.astype(np.float16))
        np.save(folder / f"text_emb/text_emb_{part}.npy", texts.astype(np.float16))
        table = {"image_path": mine, "caption": [f"words of {path}" for path in mine], "width": [640] * rows}
        table["original_height"] = [480.0, float("nan"), *[None] * (rows - 2)]  # as pandas leaves what it does not know
        pq.write_table(pa.table(table), folder / f"metadata/metadata_{part}.parquet")
        vectors.append(images.astype(np.float16).astype(np.float32))
        paths += mine
    return np.concatenate(vectors), paths


def test_a_folder_of_clip_retrieval_is_imported_by_command(tmp_path):
    vectors, paths = clip_retrieval(tmp_path / "clip")
    command = ["index", "import", str(tmp_path / "clip"), "--output", str(tmp_path / "index")]
    told = CliRunner().invoke(command_line(), [*command, "--normalize", "--set", "shards=2", "--set", "nlist=1"])
    assert told.exit_code == 0, told.output
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = unit[[40]] + 0.05
    query /= np.linalg.norm(query)
    best = np.argsort(-(query @ unit.T)[0])[:3]
    with Index.open(tmp_path / "index") as index:
        hits = index.search(query, 3)[0]
        assert [hit.id for hit in hits] == [paths[i] for i in best]
        assert hits[0].metadata["path"] == hits[0].id
        assert hits[0].metadata["width"] == 640
        assert [index.get_metadata([paths[i]])[paths[i]]["height"] for i in (0, 1, 2)] == [480, None, None]
        captions = index.get_image_metadata("caption", hits[0].id)
        assert [row["text"] for row in captions] == [f"words of {hits[0].id}"]


def lone(folder: Path, array, name: str = "part_0.npy") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)


def halved(folder: Path) -> None:
    clip_retrieval(folder, 2)
    path = folder / "metadata/metadata_1.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def unpaired(folder: Path) -> None:
    clip_retrieval(folder, 2)
    (folder / "metadata/metadata_1.parquet").unlink()


def broken(folder: Path) -> None:
    clip_retrieval(folder, 2)
    (folder / "metadata/metadata_1.parquet").write_bytes(b"PAR1 or so")


def emptied(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "image.npy", np.eye(8, dtype=np.float32))
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), folder / "image.parquet")


BAD = {
    "empty": (lambda f: f.mkdir(), {}, r"has no .npy files"),
    "pickle": (lambda f: lone(f, np.array([{"a": 1}], dtype=object)), {}, r"part_0.npy is not a .npy file of numbers"),
    "text": (lambda f: (f.mkdir(), (f / "a.npy").write_text("no"))[0], {}, r"a.npy is not a .npy file of numbers"),
    "flat": (lambda f: lone(f, np.ones(5)), {}, r"shape \(5,\); vectors are \(n, d\) floats"),
    "counts": (halved, {}, r"img_emb_1.npy has 6 vectors, .*metadata_1.parquet 5 rows: they do not belong"),
    "files": (unpaired, {}, r"2 files of vectors for 1 of metadata"),
    "no rows": (emptied, {}, r"has 8 vectors for 0 rows: they do not belong together"),
    "parquet": (broken, {}, r"metadata that cannot be read"),
    "column": (clip_retrieval, {"id_column": "uri"}, r"no column 'uri'; there are image_path, caption, width"),
    "same id": (clip_retrieval, {"id_column": "width", "normalize": True}, r"id '640' is given twice"),
    "length": (clip_retrieval, {}, r"has length .*normalize the vectors"),
    "no queries": (lambda f: lone(f, np.eye(8, dtype="f4")), {}, r"only image vectors, and no queries.*--queries"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_folder_that_cannot_be_used_is_refused_by_name(case, tmp_path):
    make_it, more, message = BAD[case]
    make_it(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        import_index(IndexConfig(nlist=1), tmp_path / "in", tmp_path / "index", **more)
    assert not (tmp_path / "index" / "CURRENT").exists()


def test_the_commands_do_what_the_functions_do(root, tmp_path):
    def told(*arguments: str) -> str:
        done = CliRunner().invoke(command_line(), ["index", *arguments, "--index", str(root)])
        assert done.exit_code == 0, f"{done.output} {done.exception!r}"
        return done.output

    assert "version 2 is intact" in told("verify")
    shown = told("info")
    assert "version 2    published" in shown
    assert "version 3    rejected" in shown
    assert "60 rows x 24" in shown
    old = root / "versions/v00000001.json"
    old.chmod(0o644)
    whole = old.read_bytes()
    old.write_bytes(whole[:-9])
    harmed = told("info").splitlines()
    assert [line for line in harmed if not line.startswith("version 1 ")] == shown.splitlines()[1:]
    assert re.match(r"version 1    unreadable: .*v00000001\.json is not valid JSON", harmed[0])
    old.write_bytes(whole)
    assert "gate         rejected no" in told("info", "3")
    assert "v00000001.json" in told("rollback")
    assert read_current(root)["version"] == 1
    assert told("tags", "--add", "prod", "--version", "2").split() == ["prod", "version", "2"]
    assert "v00000002.json" in told("publish", "prod")
    assert told("tags", "--remove", "prod") == ""
    assert "would be deleted: versions none" in told("gc", "--dry-run")
    assert "v00000004.json" in told("publish", "3", "--override-gate", "on purpose")
    gate = json.loads((root / "versions/v00000004.json").read_text())["gate"]
    assert (gate["passed"], gate["override_reason"], gate["rejected_version"]) == (True, "on purpose", 3)
    assert "deleted: versions 1, 3" in told("gc")
    assert "image.index" in told("export", str(tmp_path))
    again = CliRunner().invoke(command_line(), ["index", "export", str(tmp_path), "--index", str(root)])
    assert isinstance(again.exception, ValueError)
    assert "is there already: give another folder, or --force" in str(again.exception)
    for zero in (["rollback", "0"], ["info", "v0"], ["export", str(tmp_path / "to"), "--version", "0"]):
        refused = CliRunner().invoke(command_line(), ["index", *zero, "--index", str(root)])
        assert "is no version" in str(refused.exception), zero
    missing = CliRunner().invoke(command_line(), ["index", "info", "--index", str(tmp_path / "none")])
    assert "does not contain an index" in str(missing.exception)


def test_what_is_imported_is_judged_before_it_is_served(tmp_path):
    clip_retrieval(tmp_path / "clip", 3)
    command = ["index", "import", str(tmp_path / "clip"), "--output", str(tmp_path / "index"), "--normalize"]
    refused = CliRunner().invoke(command_line(), [*command, "--set", "nlist=1", "--set", "gate.max_latency_ms=1e-6"])
    assert isinstance(refused.exception, RejectedError)
    assert "image latency" in str(refused.exception)
    assert read_current(tmp_path / "index") is None
