"""Imported vectors and the vectors of a model never get into one index, and an import never into a folder of others."""

from pathlib import Path

import numpy as np
import pytest

from index.building.build import build_index
from index.collection import IndexInputs
from index.exchange.import_vectors import import_index
from index.search.index import Index
from index.versions import switch
from index.versions.folder import list_versions, read_current
from index.versions.switch import rollback
from tests.helpers.index_publish import CONFIG, bytes_of, publish
from tests.helpers.index_world import make

ORIGIN = {"model": "tern-0123456789ab", "regions": "regions-111111111111", "tokens": "tokens-222222222222"}


@pytest.fixture
def vectors(tmp_path) -> Path:
    """A folder of image and caption vectors of another model, with other dimensions."""
    folder = tmp_path / "emb"
    rng = np.random.default_rng(0)
    for name in ("img_emb", "text_emb"):
        (folder / name).mkdir(parents=True)
        rows = rng.standard_normal((40, 8)).astype("float32")
        np.save(folder / name / "part_0.npy", rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return folder


def build(root: Path, seed: int = 1) -> Path:
    return build_index(CONFIG, IndexInputs(*make(seed, images=60), ORIGIN), root)


def test_import_into_the_index_of_a_plan_is_refused_and_changes_nothing(vectors, tmp_path):
    root = tmp_path / "index"
    build(root)
    before = bytes_of(root)
    with pytest.raises(
        ValueError, match=r"index of a plan or a program .model tern-0123456789ab, regions regions-1.*--output"
    ):
        import_index(CONFIG, vectors, root)
    assert bytes_of(root) == before


def test_build_of_a_plan_into_an_imported_index_is_refused_and_changes_nothing(vectors, tmp_path):
    root = tmp_path / "index"
    import_index(CONFIG, vectors, root)
    before = bytes_of(root)
    with pytest.raises(ValueError, match=r"index of imported vectors .emb.*another workspace"):
        build(root)
    assert bytes_of(root) == before


def test_imported_index_takes_another_import(vectors, tmp_path):
    root = tmp_path / "index"
    import_index(CONFIG, vectors, root)
    np.save(vectors / "img_emb" / "part_0.npy", np.load(vectors / "text_emb" / "part_0.npy"))
    import_index(CONFIG, vectors, root)
    assert list_versions(root) == [1, 2]


def test_index_that_an_earlier_program_mixed_can_be_repaired_and_not_broken_again(vectors, tmp_path, monkeypatch):
    root = tmp_path / "index"
    build(root)
    with monkeypatch.context() as patch:
        for module in ("index.building.build", "index.exchange.import_vectors"):
            patch.setattr(f"{module}.check_same_origin", lambda root, is_imported: None)
        import_index(CONFIG, vectors, root)
    assert read_current(root).version == 2
    rollback(root, 1)
    with pytest.raises(ValueError, match="index of a plan"):
        rollback(root, 2)
    build(root, seed=2)
    with Index.open(root) as index:
        assert (index.version, index.manifest.provenance) == (3, ORIGIN)
    assert switch.IMPORTED in Index.open(root, 2).manifest.provenance, "the imported version is kept"


@pytest.mark.parametrize("name", ["photos", "emb", "file"])
def test_import_into_a_folder_of_others_is_refused_before_vectors_are_read(name, vectors, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("photo")
    (tmp_path / "file").write_text("text")
    before = bytes_of(tmp_path)
    with pytest.raises(ValueError, match=r"is not an index|is a file"):
        import_index(CONFIG, tmp_path / "missing", tmp_path / name)
    with pytest.raises(ValueError, match=r"is not an index|is a file"):
        publish(tmp_path / name, 1)
    assert bytes_of(tmp_path) == before
