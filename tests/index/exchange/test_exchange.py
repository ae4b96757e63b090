"""Exported files give the same results in other software and can be imported; commands of `tern index`."""

import json
import re
import shutil
from pathlib import Path

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from index.building.build import build_index
from index.collection import IndexInputs
from index.config import IndexConfig
from index.exchange.export import export_index
from index.exchange.import_vectors import ImportOptions, import_index
from index.search.index import Index
from index.versions.folder import read_current
from index.versions.switch import RejectedError
from index.versions.verdict import GateVerdict
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
            CONFIG,
            IndexInputs(*make(3, images=60)),
            folder,
            gate=lambda candidate, served: GateVerdict(passed=False, reason="no"),
        )
    return folder


@pytest.fixture(scope="module")
def exported(root, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("exported")
    export_index(root, folder)
    return folder


@pytest.mark.parametrize("kind", ["image", "caption"])
def test_exported_files_give_same_results_in_faiss(kind, root, exported):
    queries = make(2, images=60)[1][kind]
    faiss_index, rows = faiss.read_index(str(exported / f"{kind}.index")), pq.read_table(exported / f"{kind}.parquet")
    vectors = np.load(exported / f"{kind}.npy")
    id_by_key = dict(zip(rows["key"].to_pylist(), rows["id"].to_pylist(), strict=True))
    with Index.open(root) as index:
        hits = index.search(queries, 5, kind)
    scores, keys = faiss_index.search(queries, 5)
    assert [[id_by_key[key] for key in line] for line in keys.tolist()] == [[hit.id for hit in line] for line in hits]
    np.testing.assert_array_equal(scores, np.array([[hit.score for hit in line] for line in hits], np.float32))
    collection = make(2, images=60)[0][kind]
    assert sorted(rows["id"].to_pylist()) == sorted(collection.ids)
    np.testing.assert_array_equal(vectors.astype(np.float32), collection.read(rows["id"].to_pylist()))


def test_exported_folder_can_be_imported(root, exported, tmp_path):
    import_index(CONFIG, exported, tmp_path / "index")
    with Index.open(root) as old, Index.open(tmp_path / "index") as new:
        for kind, queries in make(2, images=60)[1].items():
            assert new.search(queries, 5, kind, nprobe=99) == old.search(queries, 5, kind, nprobe=99)


def test_files_of_two_exports_are_not_imported_together(exported, tmp_path):
    folder = Path(shutil.copytree(exported, tmp_path / "mixed"))
    vectors = np.load(folder / "image.npy")
    np.save(folder / "image.npy", vectors[::-1])
    with pytest.raises(ValueError, match=r"image\.npy and .*image\.parquet are of different exports"):
        import_index(CONFIG, folder, tmp_path / "index")


def write_clip_retrieval(folder: Path, parts: int = 11, rows: int = 6) -> tuple[np.ndarray, list[str]]:
    """Write a folder like clip-retrieval's inference: its columns, its file names, more than ten parts."""
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    vectors, paths = [], []
    for part in range(parts):
        images = RNG.standard_normal((rows, 16)) * 3
        texts = images + 0.2 * RNG.standard_normal((rows, 16))
        part_paths = [f"photos/{part}/{i}.jpg" for i in range(rows)]
        np.save(folder / f"img_emb/img_emb_{part}.npy", images.astype(np.float16))
        np.save(folder / f"text_emb/text_emb_{part}.npy", texts.astype(np.float16))
        table = {
            "image_path": part_paths,
            "caption": [f"words of {path}" for path in part_paths],
            "width": [640] * rows,
        }
        table["original_height"] = [480.0, float("nan"), *[None] * (rows - 2)]  # as pandas writes missing values
        pq.write_table(pa.table(table), folder / f"metadata/metadata_{part}.parquet")
        vectors.append(images.astype(np.float16).astype(np.float32))
        paths += part_paths
    return np.concatenate(vectors), paths


def test_import_command_reads_clip_retrieval_folder(tmp_path):
    vectors, paths = write_clip_retrieval(tmp_path / "clip")
    command = ["index", "import", str(tmp_path / "clip"), "--output", str(tmp_path / "index")]
    result = CliRunner().invoke(command_line(), [*command, "--normalize", "--set", "shards=2", "--set", "nlist=1"])
    assert result.exit_code == 0, result.output
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    query = unit[[40]] + 0.05
    query /= np.linalg.norm(query)
    best = np.argsort(-(query @ unit.T)[0])[:3]
    with Index.open(tmp_path / "index") as index:
        hits = index.search(query, 3)[0]
        assert [hit.id for hit in hits] == [paths[i] for i in best]
        assert hits[0].metadata.path == hits[0].id
        assert hits[0].metadata.width == 640
        assert [index.get_metadata([paths[i]])[paths[i]].height for i in (0, 1, 2)] == [480, None, None]
        captions = index.get_image_metadata("caption", hits[0].id)
        assert [row.text for row in captions] == [f"words of {hits[0].id}"]


def write_array(folder: Path, array, name: str = "part_0.npy") -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / name, array)


def write_fewer_rows(folder: Path) -> None:
    write_clip_retrieval(folder, 2)
    path = folder / "metadata/metadata_1.parquet"
    pq.write_table(pq.read_table(path).slice(1), path)


def write_fewer_tables(folder: Path) -> None:
    write_clip_retrieval(folder, 2)
    (folder / "metadata/metadata_1.parquet").unlink()


def write_broken_table(folder: Path) -> None:
    write_clip_retrieval(folder, 2)
    (folder / "metadata/metadata_1.parquet").write_bytes(b"PAR1 or so")


def write_empty_table(folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "image.npy", np.eye(8, dtype=np.float32))
    pq.write_table(pa.table({"id": pa.array([], pa.string())}), folder / "image.parquet")


INVALID = {
    "empty": (lambda f: f.mkdir(), {}, r"has no .npy files"),
    "pickle": (
        lambda f: write_array(f, np.array([{"a": 1}], dtype=object)),
        {},
        r"part_0.npy is not a .npy file of numbers",
    ),
    "text": (lambda f: (f.mkdir(), (f / "a.npy").write_text("no"))[0], {}, r"a.npy is not a .npy file of numbers"),
    "flat": (lambda f: write_array(f, np.ones(5)), {}, r"shape \(5,\); vectors are \(n, d\) floats"),
    "counts": (write_fewer_rows, {}, r"img_emb_1.npy has 6 vectors, but .*metadata_1.parquet has 5 rows"),
    "files": (write_fewer_tables, {}, r"2 files of vectors, but there are 1 metadata files"),
    "no rows": (write_empty_table, {}, r"has 8 vectors for 0 rows"),
    "parquet": (write_broken_table, {}, r"The metadata in .* cannot be read"),
    "column": (
        write_clip_retrieval,
        {"id_column": "uri"},
        r"no column 'uri'; the columns are image_path, caption, width",
    ),
    "same id": (write_clip_retrieval, {"id_column": "width", "normalize": True}, r"id '640' occurs twice"),
    "length": (write_clip_retrieval, {}, r"has length .*Normalize the vectors"),
}


@pytest.mark.parametrize("case", INVALID)
def test_invalid_folder_is_rejected_by_name(case, tmp_path):
    write, options, message = INVALID[case]
    write(tmp_path / "in")
    with pytest.raises(ValueError, match=message):
        import_index(IndexConfig(nlist=1), tmp_path / "in", tmp_path / "index", ImportOptions(**options))
    assert not (tmp_path / "index" / "CURRENT").exists()


@pytest.mark.parametrize("count", [1, 8])
def test_import_of_images_alone_says_what_recall_is_measured_with(count, tmp_path):
    write_array(tmp_path / "in", np.eye(count, 8, dtype="f4"))
    imported = import_index(IndexConfig(nlist=1), tmp_path / "in", tmp_path / "index")
    with Index.open(tmp_path / "index") as index:
        recall = index.manifest.collections["image"].recall
    assert (recall.query_source, recall.recall) == ("self", 1.0)
    (warning,) = imported.warnings
    assert "only image vectors, so recall is measured with vectors of the index itself" in warning
    np.save(tmp_path / "queries.npy", np.eye(3, 8, dtype="f4"))
    options = ImportOptions(queries=tmp_path / "queries.npy")
    assert import_index(IndexConfig(nlist=1), tmp_path / "in", tmp_path / "other", options).warnings == ()


def test_index_commands(root, tmp_path):
    def run(*arguments: str) -> str:
        result = CliRunner().invoke(command_line(), ["index", *arguments, "--index", str(root)])
        assert result.exit_code == 0, f"{result.output} {result.exception!r}"
        return result.output

    assert "version 2 is intact" in run("verify")
    output = run("info")
    assert "version 2    published" in output
    assert "version 3    rejected" in output
    assert "60 rows x 24" in output
    old = root / "versions/v00000001.json"
    old.chmod(0o644)
    content = old.read_bytes()
    old.write_bytes(content[:-9])
    damaged = run("info").splitlines()
    assert [line for line in damaged if not line.startswith("version 1 ")] == output.splitlines()[1:]
    assert re.match(r"version 1    unreadable: .*v00000001\.json is not valid JSON", damaged[0])
    old.write_bytes(content)
    assert "gate         rejected no" in run("info", "3")
    assert "v00000001.json" in run("rollback")
    assert read_current(root).version == 1
    assert run("tags", "--add", "prod", "--version", "2").split() == ["prod", "version", "2"]
    assert "v00000002.json" in run("publish", "prod")
    assert run("tags", "--remove", "prod") == ""
    assert "would be deleted: versions none" in run("gc", "--dry-run")
    assert "v00000004.json" in run("publish", "3", "--override-gate", "on purpose")
    gate = json.loads((root / "versions/v00000004.json").read_text())["gate"]
    assert (gate["passed"], gate["override_reason"], gate["rejected_version"]) == (True, "on purpose", 3)
    assert "deleted: versions 1, 3" in run("gc")
    assert "image.index" in run("export", str(tmp_path))
    repeated = CliRunner().invoke(command_line(), ["index", "export", str(tmp_path), "--index", str(root)])
    assert isinstance(repeated.exception, FileExistsError)
    assert "already exists. Pass another name, or --force" in str(repeated.exception)
    for arguments in (["rollback", "0"], ["info", "v0"], ["export", str(tmp_path / "to"), "--version", "0"]):
        rejected = CliRunner().invoke(command_line(), ["index", *arguments, "--index", str(root)])
        assert "is not a version" in str(rejected.exception), arguments
    missing = CliRunner().invoke(command_line(), ["index", "info", "--index", str(tmp_path / "none")])
    assert "does not contain an index" in str(missing.exception)


def test_imported_version_must_pass_gate(tmp_path):
    write_clip_retrieval(tmp_path / "clip", 3)
    command = ["index", "import", str(tmp_path / "clip"), "--output", str(tmp_path / "index"), "--normalize"]
    rejected = CliRunner().invoke(command_line(), [*command, "--set", "nlist=1", "--set", "gate.max_latency_ms=1e-6"])
    assert isinstance(rejected.exception, RejectedError)
    assert "image latency" in str(rejected.exception)
    assert read_current(tmp_path / "index") is None
