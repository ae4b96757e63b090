"""Row vectors are exported as plain files, and an import of them reranks as the exported version does."""

import shutil

import numpy as np
import pytest

from index.building.build import build_index
from index.exchange.export import export_index
from index.exchange.import_vectors import import_index
from index.search.index import Index
from tests.helpers.index_updates import CONFIG, World, edit
from tests.helpers.index_world import make_rows


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world, root = World(), tmp_path_factory.mktemp("index")
    build_index(CONFIG, world.inputs(), root / "index")
    edit(world)
    world.update(root / "index")
    export_index(root / "index", root / "exported")
    return world, root


def test_import_of_an_export_reranks_as_the_exported_version(world, tmp_path):
    world, root = world
    import_index(CONFIG, root / "exported", tmp_path / "index")
    with Index.open(root / "index") as old, Index.open(tmp_path / "index") as new:
        for kind, queries in world.queries.items():
            options = {"nprobe": 4, "query_rows": make_rows(queries[:5]), "rerank": 20}
            found, expected = (index.search(queries[:5], 30, kind, **options) for index in (new, old))
            assert [[hit.id for hit in line] for line in found] == [[hit.id for hit in line] for line in expected]
    assert np.load(root / "exported" / "image.row_lengths.npy").shape == (len(world.items["image"]),)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "cannot be read"),
        (lambda path: np.save(path, np.load(path)[::-1]), "are of different exports"),
        (lambda path: np.save(path, np.load(path).astype(np.float32)), "are of different exports"),
    ],
)
@pytest.mark.parametrize("name", ["rows", "row_weights", "row_lengths"])
def test_row_vectors_of_another_export_are_not_imported(name, damage, message, world, tmp_path):
    folder = shutil.copytree(world[1] / "exported", tmp_path / "exported")
    damage(folder / f"image.{name}.npy")
    with pytest.raises(ValueError, match=f"row vectors beside .*{message}"):
        import_index(CONFIG, folder, tmp_path / "index")
