"""Queries of one or several parts, against numpy over all vectors of a small run."""

import io
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import data.images as images_module
from data.images import load_image
from data.store.store import Store
from index.search.near_copies import NEAR_COPY_COSINE
from pipeline.search import (
    ImagePart,
    PhotoPart,
    Query,
    Searcher,
    SearchRequest,
    TextPart,
    VectorPart,
    encode,
    make_photo_query,
)
from pipeline.search.query import MAX_PARTS, MAX_QUERIES
from tests.helpers.reranked import score_images

pytestmark = pytest.mark.slow

BOX = (31.0, 12.0, 171.0, 132.0)


@pytest.fixture(scope="module")
def searcher(finished_pipeline):
    return Searcher(finished_pipeline.plan)


@pytest.fixture(scope="module")
def images(finished_pipeline):
    """Ids of all images, and their vectors (n, e) of unit length."""
    store = Store(finished_pipeline.vectors.images)
    vectors = store.read("features", store.ids).astype("f4")
    return store.ids, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def to_png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


def rank(ids, vectors, query, left_out=()):
    """Rank images by their inner products with a query (e,)."""
    scores = dict(zip(ids, vectors @ (query / np.linalg.norm(query)), strict=True))
    return sorted((-score, name) for name, score in scores.items() if name not in left_out)


def check_hits(hits, expected):
    """Check hits against (negative score, id) of the oracle; equal scores may come in another order."""
    np.testing.assert_allclose([hit.score for hit in hits], [-score for score, _ in expected], atol=4e-3)
    scores = {name: -score for score, name in expected}
    assert {hit.id for hit in hits} == scores.keys()
    assert all(abs(scores[hit.id] - hit.score) < 4e-3 for hit in hits)


def test_search_ranks_by_the_weighted_sum_of_all_kinds_of_parts(searcher, images, finished_pipeline):
    ids, vectors = images
    one, two = searcher.embed_text("two dogs are running")[0], searcher.embed_text("a street")[0]
    photo = finished_pipeline.features.dataset.images_by_id[ids[2]].path
    given = np.arange(1, vectors.shape[1] + 1, dtype="f4")
    queries = [
        Query((TextPart("two dogs are running"), TextPart("a street", -0.5))),
        Query((ImagePart(ids[7]), TextPart("a street", 2))),
        Query((PhotoPart(photo), TextPart("two dogs are running", -1), TextPart("a street", 0))),
        Query((VectorPart(given, 0.25), ImagePart(ids[9], weight=-1))),
        Query((TextPart("a street", -1),)),
    ]
    sums = [
        one - 0.5 * two,
        vectors[7] + 2 * two,
        vectors[2] - one,
        given / np.linalg.norm(given) / 4 - vectors[9],
        -two,
    ]
    own = [(), (ids[7],), (ids[2],), (), ()]
    for answer, expected, left_out in zip(searcher.search(queries, len(ids)), sums, own, strict=True):
        check_hits(answer.hits, rank(ids, vectors, expected, left_out))


def check_same(hits, expected):
    """Check that hits are equal; the last bits of what a region adds depend on the other hits of a pass."""
    assert [replace(hit, regions=()) for hit in hits] == [replace(hit, regions=()) for hit in expected]
    for hit, same in zip(hits, expected, strict=True):
        assert [region.box for region in hit.regions] == [region.box for region in same.regions]
        assert [r.score for r in hit.regions] == pytest.approx([r.score for r in same.regions], abs=1e-6)


def test_image_that_asks_is_left_out_of_its_results(searcher, images, finished_pipeline, tmp_path):
    ids, vectors = images
    copy = shutil.copy(finished_pipeline.features.dataset.images_by_id[ids[5]].path, tmp_path / "copy.bin")
    expected = rank(ids, vectors, vectors[5], [ids[5]])
    like = [Query((ImagePart(ids[5]),)), make_photo_query(copy, "image"), make_photo_query(copy.read_bytes(), "image")]
    for query in like:
        (everything,) = searcher.search([query], k=1000)
        check_hits(everything.hits, expected)
        (page,) = searcher.search([query], k=4, offset=3)
        check_same(page.hits, everything.hits[3:7])
        (last,) = searcher.search([query], k=4, offset=len(ids) - 3)
        check_same(last.hits, everything.hits[-2:])
        assert searcher.search([query], k=4, offset=len(ids))[0].hits == ()
    (away,) = searcher.search([Query((TextPart("a dog"), ImagePart(ids[5], weight=-1)))], k=1000)
    assert ids[5] in {hit.id for hit in away.hits}, "an image that is avoided is a result as any other"
    assert {hit.image_id for hit in searcher.search([make_photo_query(copy)], k=1000)[0].hits} >= {ids[5]}


def test_region_of_a_photo_is_embedded_as_a_photo_of_its_own(searcher, images, finished_pipeline, tmp_path):
    path = finished_pipeline.features.dataset.images_by_id[images[0][3]].path
    pixels = load_image(path)
    cut = pixels[12:132, 31:171]
    (expected,) = searcher.embed_image(to_png(cut))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    Image.fromarray(np.rot90(pixels)).save(tmp_path / "turned.png", exif=exif)
    queries = [
        Query((PhotoPart(path, BOX),)),
        Query((PhotoPart((tmp_path / "turned.png").read_bytes(), BOX),)),
        Query((ImagePart(images[0][3], BOX),)),
    ]
    embedded = searcher._embedder.embed(queries)
    for embedding in embedded:
        np.testing.assert_allclose(embedding.vectors[0], expected, atol=1e-6)
    assert not np.allclose(expected, searcher.embed_image(path)[0], atol=1e-2), "the region is not the image"
    width, height = pixels.shape[1::-1]
    whole = searcher._embedder.embed([Query((PhotoPart(path, (0, 0, width, height)),))])
    np.testing.assert_allclose(whole[0].vectors, searcher.embed_image(path), atol=1e-6)
    assert images[0][3] not in {hit.id for answer in searcher.search(queries[::2], 50) for hit in answer.hits}


def test_region_of_a_large_photo_is_cut_from_few_pixels(searcher, monkeypatch):
    file = io.BytesIO()
    Image.new("RGB", (8000, 5000), "green").save(file, "jpeg")
    sizes = []
    crop = images_module.crop_image
    monkeypatch.setattr(
        images_module, "crop_image", lambda image, box: sizes.append(image.pixels.size) or crop(image, box)
    )
    searcher.search([Query((PhotoPart(file.getvalue(), (4000, 1000, 7000, 5000)),))])
    assert sizes[0] <= 3 * encode.MAX_PHOTO_PIXELS


def test_queries_of_one_pass_give_the_answers_of_single_ones(searcher, finished_pipeline):
    texts = ["a dog", "two cats on a bench", "a dog", "a red car"]
    queries = [Query((TextPart(texts[i % 4]),)) for i in range(MAX_QUERIES)]
    answers = searcher.search(queries, k=3)
    assert answers[0].hits == answers[2].hits == answers[60].hits
    for text, answer in zip(texts, answers, strict=False):
        scores = score_images(searcher, finished_pipeline.vectors, text)
        check_hits(answer.hits, [(-score, name) for name, score in [*scores.items()][:3]])
    with pytest.raises(ValueError, match=r"65 queries were passed\. Pass 1 to 64"):
        searcher.search([*queries, queries[0]])
    with pytest.raises(ValueError, match="0 queries were passed"):
        searcher.search([])


def test_sum_of_the_maximum_number_of_parts(searcher, images):
    ids, vectors = images
    parts = tuple(ImagePart(name, weight=(-1) ** i) for i, name in enumerate(ids[:MAX_PARTS]))
    expected = sum((-1) ** i * vectors[i] for i in range(MAX_PARTS))
    (answer,) = searcher.search([Query(parts)], 100)
    check_hits(answer.hits, rank(ids, vectors, expected, ids[:MAX_PARTS:2]))
    (tripled,) = searcher.search([Query((TextPart("a dog"),) * 3)], 5)
    single = Query((VectorPart(searcher.embed_text("a dog")[0]),))  # a sum has no row vectors either
    np.testing.assert_allclose(
        [hit.score for hit in tripled.hits], [hit.score for hit in searcher.search([single], 5)[0].hits], atol=1e-6
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((), "A query has 0 parts"),
        ((TextPart("a dog"),) * (MAX_PARTS + 1), r"A query has 17 parts\. Pass 1 to 16"),
        ((TextPart("a dog"), TextPart("a dog", -1)), "cancel out"),
        ((TextPart("a dog"), TextPart(" a   dog ", -1.0002)), "cancel out"),
        ((TextPart("a dog", 0),), "cancel out"),
        ((TextPart("a dog", float("nan")),), "The weight nan is not a number from -100 to 100"),
        ((TextPart("a dog", float("inf")),), "The weight inf is not"),
        ((TextPart("a dog"), TextPart("a cat", -1e300)), r"The weight -1e\+300 is not"),
        ((TextPart("a dog", 1e-300),), "cancel out"),
        ((TextPart(""), TextPart("a dog")), "1 to 2,000 characters"),
        ((ImagePart("no such image"),), "has no image 'no such image'"),
        ((ImagePart("x" * 10**6),), r"has no image 'x{200}'\. Pass"),
        ((VectorPart(np.zeros(32, "f4")),), "finite numbers that are not all 0"),
        ((VectorPart(np.full(32, np.nan, "f4")),), "32 finite numbers"),
        ((VectorPart(np.ones(31, "f4")),), r"has shape \(31,\)"),
        ((VectorPart(np.ones((1, 32), "f4")),), r"has shape \(1, 32\)"),
    ],
)
def test_part_that_cannot_be_used_is_rejected(searcher, parts, message):
    with pytest.raises(ValueError, match=message):
        searcher.search([Query(parts)])


@pytest.mark.parametrize("factor", [1e-36, 1e-20, 1e20, 3e38])
def test_vector_of_any_length_is_scaled(searcher, images, factor):
    vector = np.where(np.arange(images[1].shape[1]) % 2, 1, -0.5) * factor
    (embedded,) = searcher._embedder.embed([Query((VectorPart(vector.astype("f4")),))])
    np.testing.assert_allclose(embedded.vectors[0], vector / factor / np.linalg.norm(vector / factor), rtol=1e-4)


def test_box_outside_of_an_image_is_rejected(searcher, images, finished_pipeline):
    name = images[0][0]
    path = finished_pipeline.features.dataset.images_by_id[name].path
    width, height = load_image(path).shape[1::-1]
    for part in (ImagePart(name, (0, 0, width + 2, 50)), PhotoPart(path, (0, 0, width + 2, 50))):
        with pytest.raises(ValueError, match=rf"0,0,{width + 2},50 is not a region of an image of {width}x{height}"):
            searcher.search([Query((part,))])


def test_region_of_an_image_whose_file_is_gone_fails_alone(searcher, images, monkeypatch, tmp_path):
    monkeypatch.setattr(searcher._embedder, "_image_root", tmp_path)
    queries = [Query((ImagePart(images[0][0], BOX),)), Query((ImagePart(images[0][0]),))]
    failed, answer = searcher.answer([SearchRequest(query, 2) for query in queries])
    assert (
        str(failed) == f"The file of the image {images[0][0]!r} is gone, so no region of it can be cut out. Restore it."
    )
    assert len(answer.hits) == 2


def test_file_outside_of_the_image_folder_is_not_read(searcher, images, monkeypatch, tmp_path):
    """The metadata of an imported index come from somebody else; and errors of a service name no path."""
    secret = tmp_path / "secret.txt"
    secret.write_text("root:x:0:0")
    row = searcher.index.get_metadata([images[0][0]])[images[0][0]]
    for path in (str(secret), "../" * 12 + str(secret)[1:], "", "gone.jpg"):
        monkeypatch.setattr(searcher.index, "get_metadata", lambda ids, p=path: {ids[0]: row._replace(path=p)})
        (answer,) = searcher.answer([SearchRequest(Query((ImagePart(row.id, BOX),)))])
        assert isinstance(answer, ValueError)
        assert "is gone, so no region" in str(answer)
        assert "root" not in str(answer)
        assert str(tmp_path) not in str(answer)


def test_unique_leaves_out_near_copies_and_pages_repeat_nothing(searcher, images):
    ids, vectors = images
    by_id = dict(zip(ids, vectors, strict=True))
    query = Query((VectorPart(vectors[3] + vectors[7]),))
    (ranked,) = searcher.search([query], k=len(ids))
    expected = []
    for hit in ranked:
        if all(float(by_id[hit.id] @ by_id[name]) < NEAR_COPY_COSINE for name in expected):
            expected.append(hit.id)
    assert 6 < len(expected) < len(ids), "some images are near copies"
    pages = [searcher.search([query], k=3, offset=offset, unique=True)[0] for offset in range(0, len(expected), 3)]
    assert [hit.id for page in pages for hit in page] == expected
    (like,) = searcher.search([Query((ImagePart(expected[0]),))], k=len(ids), unique=True)
    assert all(float(by_id[expected[0]] @ by_id[hit.id]) < NEAR_COPY_COSINE for hit in like), "copies of the query too"


@pytest.mark.parametrize(
    ("query", "k", "offset", "message"),
    [
        (make_photo_query(b""), 2, 0, "`unique` leaves out near copies of images, but captions are searched"),
        (Query((TextPart("a dog"),)), 10, 1991, "pass at most 2,000 for their sum"),
    ],
)
def test_unique_refuses_what_it_cannot_answer(query, k, offset, message, searcher):
    with pytest.raises(ValueError, match=message):
        searcher.search([query], k, offset, unique=True)
