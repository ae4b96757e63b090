"""Import of vectors that are not finite or of length 0: they are listed by name, and all others are imported."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from index.config import IndexConfig
from index.exchange import ImportOptions, import_index
from index.search import Index
from pipeline.cli.app import build_app


def write_folder(folder: Path, images: np.ndarray) -> Path:
    for name in ("img_emb", "text_emb", "metadata"):
        (folder / name).mkdir(parents=True)
    np.save(folder / "img_emb" / "0.npy", images)
    np.save(folder / "text_emb" / "0.npy", np.eye(len(images), 16, dtype=np.float32))
    rows = {"image_path": [f"im{i}" for i in range(len(images))], "caption": [f"text {i}" for i in range(len(images))]}
    pq.write_table(pa.table(rows), folder / "metadata" / "0.parquet")
    return folder


@pytest.mark.parametrize("normalize", [False, True])
def test_unusable_vectors_are_listed_and_all_others_are_imported(tmp_path: Path, normalize: bool) -> None:
    images = np.eye(6, 16, dtype=np.float32) * (3 if normalize else 1)
    images[1, 3], images[2], images[4, 0] = np.nan, 0, np.inf
    folder = write_folder(tmp_path / "vectors", images)
    imported = import_index(IndexConfig(), folder, tmp_path / "index", ImportOptions(normalize=normalize))
    reasons = dict(imported.invalid_rows)
    assert set(reasons) == {"image im1", "image im2", "image im4"}
    assert "not finite" in reasons["image im1"]
    assert ("not finite" in reasons["image im2"]) == normalize, "0 / 0"
    with Index.open(tmp_path / "index") as index:
        hits = index.search(np.eye(6, 16, dtype=np.float32), 6, "image")
        assert {hit.id for hit in hits[0]} == {"im0", "im3", "im5"}
        assert hits[3][0].id == "im3"
        assert index.manifest.collections["caption"].counts.live == 6


def test_vectors_that_are_only_not_of_unit_length_are_an_error(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vectors", 3 * np.eye(6, 16, dtype=np.float32))
    with pytest.raises(ValueError, match="has length 3, not 1"):
        import_index(IndexConfig(), folder, tmp_path / "index")


def test_import_without_any_usable_vector_says_why(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vectors", np.zeros((6, 16), np.float32))
    with pytest.raises(ValueError, match=r"No image vector of .* can be used\. The first, 'im0': .*length 0"):
        import_index(IndexConfig(), folder, tmp_path / "index")


def test_normalize_scales_the_queries_of_a_file(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vectors", 3 * np.eye(6, 16, dtype=np.float32))
    np.save(tmp_path / "queries.npy", 5 * np.eye(6, 16, dtype=np.float32))
    options = ImportOptions(normalize=True, queries=tmp_path / "queries.npy")
    assert import_index(IndexConfig(), folder, tmp_path / "index", options).invalid_rows == ()


@pytest.mark.parametrize("setting", ["gate.min_recal=1", "shard=2", "shards"])
def test_import_command_names_an_unknown_setting(setting: str, tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vectors", np.eye(6, 16, dtype=np.float32))
    arguments = ["index", "import", str(folder), "--output", str(tmp_path / "index"), "--set", setting]
    result = CliRunner().invoke(build_app(), arguments, env={"COLUMNS": "200"})
    assert result.exit_code != 0
    expected = {"shards": "Write KEY=VALUE", "shard=2": "did you mean 'shards'", "gate.min_recal=1": "'min_recall'"}
    assert expected[setting] in result.output
    assert not (tmp_path / "index").exists()


def test_caption_with_nul_is_unknown_and_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "vectors", np.eye(4, 16, dtype=np.float32))
    rows = {"image_path": ["a", "a\0b", "c", "d"], "caption": ["x", "y", "dog\0 cat", "z"]}
    pq.write_table(pa.table(rows), folder / "metadata" / "0.parquet")
    imported = import_index(IndexConfig(), folder, tmp_path / "index")
    assert any("NUL" in warning for warning in imported.warnings)
    assert [name for name, _ in imported.invalid_rows] == ["0.parquet row 1 column 'image_path'"]
    with Index.open(tmp_path / "index") as index:
        assert index.count_matching("caption like '%cat%'", "image") == 0
        assert index.count_matching("id like 'a'", "image") == index.count_matching("id = 'a'", "image") == 1
