"""Reranking orders the best hits by the combined score: equal to a loop over all pairs, whatever wrote the version."""

from dataclasses import replace

import numpy as np
import pytest

from data.alignment import RowVectors
from index.building.build import build_index
from index.building.update import IncompatibleUpdateError, update_index
from index.collection import Collection
from index.config import IndexConfig
from index.ivf.row_vectors import MappedRowVectors, write_row_vectors
from index.search.index import Index
from index.versions.folder import read_version_manifest
from index.versions.objects import object_path
from tests.helpers.index_updates import CONFIG, World, edit
from tests.helpers.index_world import ALIGNMENT_WEIGHT, make_rows
from tests.reference.index import rerank_exactly, split_hits


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A version with base shards, delta shards and deleted rows, and its items."""
    root, world = tmp_path_factory.mktemp("index"), World()
    build_index(CONFIG, world.inputs(), root)
    edit(world)
    world.update(root)
    return root, world


def list_items(world: World, kind: str, allowed=None) -> Collection:
    items = {name: item for name, item in world.items[kind].items() if allowed is None or name in allowed}
    return Collection(list(items), np.stack([vector for vector, _ in items.values()]), [])


def check_search(built, kind, rerank, k, allowed=None, **options):
    """Compare the hits of three queries with a loop over all pairs of row vectors."""
    root, world = built
    queries, items = world.queries[kind][:3], list_items(world, kind, allowed)
    with Index.open(root) as index:
        hits = index.search(queries, k, kind, nprobe=4, query_rows=make_rows(queries), rerank=rerank, **options)
    ids, scores = split_hits(hits)
    rows = make_rows(items.vectors)
    expected = rerank_exactly(items, queries, make_rows(queries), rows, ALIGNMENT_WEIGHT, rerank, k)
    assert ids == expected[0]
    np.testing.assert_allclose(scores, expected[1], atol=2e-6)


@pytest.mark.parametrize("kind", ["image", "caption"])
@pytest.mark.parametrize(("rerank", "k"), [(1, 10), (10, 10), (30, 4), (7, 25), (10_000, 12)])
def test_reranked_hits_equal_loop_over_all_pairs(kind, rerank, k, built):
    check_search(built, kind, rerank, k)


def test_reranked_hits_of_filters_equal_loop_over_allowed_items(built):
    allowed = set(list(built[1].items["caption"])[::7])
    check_search(built, "caption", 6, 9, allowed, allowed_ids=allowed)
    captions = {name for name, (_, row) in built[1].items["caption"].items() if row.image_id < "0020"}
    check_search(built, "caption", 12, 12, captions, where="image_id < '0020'")


def test_pages_across_the_border_of_rerank_are_parts_of_one_order(built):
    root, world = built
    queries = world.queries["image"][:4]
    with Index.open(root) as index:
        pages = [
            [hit for line in index.search(queries, k, query_rows=make_rows(queries), rerank=8) for hit in line[k - 4 :]]
            for k in (4, 8, 12, 16)
        ]
        whole = index.search(queries, 16, query_rows=make_rows(queries), rerank=8)
    for number, page in enumerate(pages):
        expected = [hit for line in whole for hit in line[4 * number : 4 * number + 4]]
        assert [hit.id for hit in page] == [hit.id for hit in expected]
        assert number > 1 or page == expected, "to the last bit"
        assert np.allclose([hit.score for hit in page], [hit.score for hit in expected], atol=1e-6)


def test_search_without_query_rows_or_with_rerank_0_is_the_global_search(built):
    root, world = built
    queries = world.queries["image"][:4]
    with Index.open(root) as index:
        expected = index.search(queries, 10)
        assert index.search(queries, 10, query_rows=make_rows(queries), rerank=0) == expected
        assert index.search(queries, 10, rerank=50) == expected
        assert index.search(queries, 10, query_rows=make_rows(queries)) != expected
        assert index.manifest.collections["image"].search.rerank == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_rows": make_rows(np.ones((2, 24)))}, "row vectors of 2 queries for 3 queries"),
        (
            {"query_rows": RowVectors(np.ones((3, 5), np.int8), np.ones(3, np.float16), np.ones(3, np.int64))},
            "have 5 numbers, those of the version 8",
        ),
        ({"rerank": -1}, "rerank is -1"),
    ],
)
def test_search_names_wrong_row_vectors(change, message, built):
    root, world = built
    with Index.open(root) as index, pytest.raises(ValueError, match=message):
        index.search(world.queries["image"][:3], 5, **change)


def test_version_without_row_vectors_is_searched_and_updated_without_reranking(tmp_path):
    world = World(has_rows=False)
    build_index(CONFIG, world.inputs(), tmp_path)
    edit(world)
    world.update(tmp_path)
    queries = world.queries["image"][:3]
    with Index.open(tmp_path) as index:
        assert index.search(queries, 10, query_rows=make_rows(queries), rerank=20) == index.search(queries, 10)
        assert (index.manifest.collections["image"].alignment, index.manifest.collections["image"].search.rerank) == (
            None,
            0,
        )


def strip_rows(inputs):
    collections = {kind: replace(one, rows=None) for kind, one in inputs.collections.items()}
    return replace(inputs, collections=collections, query_rows={})


def with_other_weight(inputs):
    return replace(inputs, alignment_weight=0.5)


def with_other_dim(inputs):
    def widen(rows):
        return RowVectors(np.hstack([rows.codes, rows.codes]), rows.weights, rows.lengths)

    wider = {
        kind: replace(one, rows=lambda ids, one=one: widen(one.rows(ids))) for kind, one in inputs.collections.items()
    }
    rows = {kind: widen(one) for kind, one in inputs.query_rows.items()}
    return replace(inputs, collections=wider, query_rows=rows)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (strip_rows, "are 8 numbers, weight 0.4; those of the update are none"),
        (with_other_weight, "those of the update are 8 numbers, weight 0.5"),
        (with_other_dim, "those of the update are 16 numbers, weight 0.4"),
    ],
)
def test_update_refuses_row_vectors_of_another_kind(change, message, built):
    root, world = built
    with pytest.raises(IncompatibleUpdateError, match=message):
        update_index(CONFIG, change(world.inputs()), root)


def test_update_of_rerank_alone_changes_the_parameter_and_writes_no_shard(tmp_path):
    world = World()
    build_index(CONFIG, world.inputs(), tmp_path)
    before = read_version_manifest(tmp_path)
    update_index(CONFIG.model_copy(update={"rerank": 7}), world.inputs(), tmp_path)
    after = read_version_manifest(tmp_path)
    assert (after.version, after.config) == (2, before.config | {"rerank": 7})
    for kind, collection in after.collections.items():
        assert collection.shards == before.collections[kind].shards
        assert collection.search == before.collections[kind].search.model_copy(update={"rerank": 7})
    update_index(CONFIG.model_copy(update={"rerank": 7}), world.inputs(), tmp_path)
    assert read_version_manifest(tmp_path).version == 2


def test_build_names_row_vectors_that_do_not_fit_ids(tmp_path):
    inputs = World().inputs()
    one = inputs.collections["image"]
    rows = make_rows(np.eye(24, dtype=np.float32)[:3])
    collections = inputs.collections | {"image": replace(one, rows=lambda ids: rows)}
    with pytest.raises(ValueError, match=r"row vectors of 3 items, \d+ codes and \d+ weights, for 60 ids"):
        build_index(IndexConfig(), replace(inputs, collections=collections), tmp_path)
    with pytest.raises(ValueError, match="The alignment weight is 2"):
        build_index(IndexConfig(), replace(inputs, alignment_weight=2.0), tmp_path)


def damage_starts(path):
    rows = make_rows(np.eye(24, dtype=np.float32)[:3])
    write_row_vectors(path, np.arange(3), [replace(rows, lengths=rows.lengths * 0)])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:-2]), "is not a file of row vectors|do not fit"),
        (lambda path: path.write_bytes(path.read_bytes()[:150]), "is not a file of row vectors"),
        (lambda path: path.write_bytes(b""), "is not a file of row vectors"),
        (lambda path: path.write_bytes(path.read_bytes() + b"x"), "do not fit"),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"|i1", b"|O1")), "is not a file of row vectors"),
        (damage_starts, "do not fit"),
    ],
)
def test_row_vector_file_of_another_form_is_named(damage, message, tmp_path):
    path, rows = tmp_path / "rows", make_rows(np.eye(24, dtype=np.float32))
    write_row_vectors(path, np.arange(24), [rows.select(range(10)), rows.select(range(10, 24))])
    read = MappedRowVectors([path], rows.dim).get(np.array([5, 23, 0]))
    expected = rows.select([5, 23, 0])
    assert all(np.array_equal(getattr(read, name), getattr(expected, name)) for name in ("codes", "weights", "lengths"))
    with pytest.raises(ValueError, match="the manifest lists 9"):
        MappedRowVectors([path], 9)
    with pytest.raises(KeyError, match="77"):
        MappedRowVectors([path], rows.dim).get(np.array([5, 77]))
    damage(path)
    with pytest.raises(ValueError, match=message) as error:
        MappedRowVectors([path], rows.dim)
    assert str(path) in str(error.value)


def test_truncated_row_vectors_of_a_version_are_named(tmp_path):
    build_index(CONFIG, World().inputs(), tmp_path)
    shard = read_version_manifest(tmp_path).collections["image"].shards[0]
    path = object_path(tmp_path, shard.row_vectors)
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match=rf"image row_vectors of shard 0: {path} has \d+ bytes"):
        Index.open(tmp_path)
