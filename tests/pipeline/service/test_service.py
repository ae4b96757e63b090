"""The search service returns the hits of the searcher, hides paths of the machine, and limits uploads."""

import gc
import io
import shutil
import weakref
from collections import Counter

import pytest
from PIL import Image as Picture
from PIL import ImageOps
from typer.testing import CliRunner

from index.metadata import lookup
from index.search.hot_reload import HotReloader
from index.versions.switch import rollback
from index.versions.tags import add_tag
from pipeline.cli.app import build_app
from pipeline.origin import read_origin
from pipeline.search import encoder_pool
from pipeline.search.query import make_text_query
from pipeline.search.searcher import Searcher, open_searchers
from pipeline.stages.index import IndexSource, publish_full_index
from pipeline.workspace import Workspace
from tests.helpers.small_plan import small_plan

testclient = pytest.importorskip("fastapi.testclient")
service = pytest.importorskip("pipeline.service.app")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def client(searcher):
    return testclient.TestClient(
        service.create_app(HotReloader(searcher.index.root, searcher.with_version, poll_seconds=0)),
        base_url="http://localhost",
    )


def test_text_search_returns_hits_of_searcher(client, searcher, finished_pipeline):
    answer = client.get("/api/v1/search", params={"q": "two dogs on the street", "k": 3}).json()
    expected = searcher.search_text("two dogs on the street", 3)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert answer["version"] == searcher.index.version
    assert str(finished_pipeline.plan.workspace) not in str(answer), "paths of the machine must not be sent"


def test_photo_search_returns_captions(client, searcher, finished_pipeline):
    path = finished_pipeline.features.dataset.images[0].path
    answer = client.post("/api/v1/search/photo", params={"k": 4}, content=path.read_bytes()).json()
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in searcher.search_image(path, 4)]


def test_filter_selects_same_images_by_call_command_and_http(client, searcher, finished_pipeline):
    sizes = {image.id: Picture.open(image.path).size for image in finished_pipeline.features.dataset.images}
    min_width = max(width for width, _ in sizes.values())
    where = f"split in ('test', 'train') and width >= {min_width} and not caption like '%DOG%'"
    expected_ids = {
        image.id
        for image in finished_pipeline.features.dataset.images
        if image.split != "val" and sizes[image.id][0] >= min_width
        if not any(
            "dog" in caption.text.lower()
            for caption in finished_pipeline.features.dataset.captions_by_image_id[image.id]
        )
    }
    assert 0 < len(expected_ids) < len(sizes)
    hits = [hit.id for hit in searcher.search_text("a man", 36, where)]
    assert set(hits) == expected_ids
    assert [
        hit["id"] for hit in client.get("/api/v1/search", params={"q": "a man", "k": 36, "where": where}).json()["hits"]
    ] == hits
    arguments = [
        "search",
        "a man",
        "-k",
        "36",
        "--where",
        where,
        "--plan",
        str(small_plan(finished_pipeline.plan.workspace.parent)),
    ]
    result = CliRunner().invoke(build_app(), arguments)
    assert [line.split()[2] for line in result.stdout.splitlines()] == hits
    assert client.get("/api/v1/search", params={"q": "a man", "where": "width < 0"}).json()["hits"] == []
    photo = finished_pipeline.features.dataset.images[0].path
    response = client.post(
        "/api/v1/search/photo", params={"k": 9, "where": "split = 'val'"}, content=photo.read_bytes()
    ).json()
    assert {
        finished_pipeline.features.dataset.images_by_id[
            finished_pipeline.features.dataset.image_id_by_caption_id[hit["id"]]
        ].split
        for hit in response["hits"]
    } == {"val"}


def test_thumbnails_of_hits_are_small_copies_with_entity_tags(client, searcher):
    for hit in searcher.search_text("a dog", 3):
        address = f"/api/v1/thumbnails/{hit.image_id}"
        answer = client.get(address)
        assert answer.headers["content-type"] == "image/jpeg"
        thumbnail, full = Picture.open(io.BytesIO(answer.content)), Picture.open(hit.path)
        assert thumbnail.size == ImageOps.contain(full, (360, 270)).size or thumbnail.size == full.size
        again = client.get(address, headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/api/v1/thumbnails/no.jpg").status_code == 404
    assert client.get("/api/v1/thumbnails/../../etc/passwd").status_code == 404


@pytest.mark.parametrize(
    ("send", "status", "text"),
    [
        (lambda c: c.get("/api/v1/search", params={"q": " "}), 422, "1 to 2,000 characters"),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "k": 0}), 422, "greater than or equal to 1"),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "k": 1000}), 422, "less than or equal to 100"),
        (lambda c: c.get("/api/v1/search"), 422, "Field required"),
        (lambda c: c.get("/api/v1/search?q=a&K=3"), 422, "'K' is unknown; parameters are q, for, k, offset, where"),
        (lambda c: c.get("/api/v1/search?q=a&were=width"), 422, "'were' is unknown; did you mean 'where'?"),
        (lambda c: c.get("/api/v1/search?q=a&k=1&k=2"), 422, "The parameter 'k' occurs 2 times. Send it once."),
        (lambda c: c.get("/api/v1/search?q=a&q=b"), 422, "The parameter 'q' occurs 2 times"),
        (
            lambda c: c.post("/api/v1/search/photo?q=a", content=b"x"),
            422,
            "'q' is unknown; parameters are for, k, offset, where",
        ),
        (lambda c: c.get("/api/v1/thumbnails/a.jpg?sizes=9"), 422, "'sizes' is unknown; did you mean 'size'?"),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "version": "\u0661"}), 404, "The index has no version"),
        (lambda c: c.get("/api/v1/search", params={"q": "\U0001f984"}), 422, "The model knows no part of the query"),
        (
            lambda c: c.get("/api/v1/search", params={"q": "\u16a0\u16a2 \u200b"}),
            422,
            "The model knows no part of the query",
        ),
        (lambda c: c.get("/api/v1/search", params={"q": "\u202e"}), 422, r"no part of the query '\\u202e'"),
        (lambda c: c.get("/api/v1/search", params={"q": "\ufffd"}), 422, "The model knows no part of the query"),
        (
            lambda c: c.get("/api/v1/search", params={"q": "a", "where": "caption like '%\0'"}),
            422,
            "NUL has no meaning here",
        ),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "where": "splt = 'x'"}), 422, "did you mean 'split'?"),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "where": "width = <b>"}), 422, "a number is expected"),
        (lambda c: c.get("/api/v1/search", params={"q": "a", "version": "99"}), 404, "The index has no version '99'"),
        (
            lambda c: c.get("/api/v1/search", params={"q": "a", "version": "../x"}),
            404,
            "The index has no version '../x'",
        ),
        (lambda c: c.get("/api/v1/columns?version=prod"), 404, "The index has no version 'prod'"),
        (lambda c: c.get("/api/v1/overview?version=99"), 404, "The index has no version '99'"),
        (lambda c: c.get("/api/v1/columns?kind=images"), 422, "'kind' is unknown; parameters are for, version"),
        (lambda c: c.post("/api/v1/search/photo", content=b"no picture"), 422, "cannot use the photo"),
        (lambda c: c.post("/api/v1/search/photo", content=b""), 422, "cannot use the photo"),
        (lambda c: c.post("/api/v1/search/photo", content=bytes(26 << 20)), 413, "larger than"),
        (
            lambda c: c.post("/api/v1/search/photo", files={"file": b"\xff\xd8"}),
            415,
            "Send the bytes of the photo as the body",
        ),
        (
            lambda c: c.post("/api/v1/search/photo", headers={"Content-Encoding": "gzip"}, content=b"x"),
            415,
            "is compressed",
        ),
    ],
)
def test_invalid_request_is_rejected_with_reason(client, send, status, text):
    answer = send(client)
    assert answer.status_code == status
    assert text in answer.text


def test_filter_that_takes_too_long_is_ended(client, monkeypatch):
    monkeypatch.setattr("pipeline.service.api.dispatcher.FILTER_SECONDS", 0)
    monkeypatch.setattr(lookup, "PROGRESS_STEPS", 1)
    parameters = {"q": "a dog", "where": "caption like '%a%b%c%' or not caption like '%d%'"}
    answer = client.get("/api/v1/search", params=parameters)
    assert (answer.status_code, "The filter takes too long" in answer.text) == (400, True)
    assert client.get("/api/v1/search", params={"q": "a dog"}).status_code == 200


def test_new_version_is_served_at_once_and_old_version_on_request(finished_pipeline, tmp_path):
    shutil.copytree(finished_pipeline.plan.workspace / "index", tmp_path / "index")
    for name in ("models", "stores", "dataset"):
        (tmp_path / name).symlink_to(finished_pipeline.plan.workspace / name)
    first = Searcher(finished_pipeline.plan.model_copy(update={"workspace": tmp_path}))
    client = testclient.TestClient(
        service.create_app(HotReloader(first.index.root, first.with_version, poll_seconds=0)),
        base_url="http://localhost",
    )

    def search(**more) -> tuple[int, list[str]]:
        answer = client.get("/api/v1/search", params={"q": "a dog", "k": 3, **more}).json()
        return answer["version"], [hit["id"] for hit in answer["hits"]]

    before = search()
    assert before[0] == 1
    config = finished_pipeline.plan.index.model_copy(update={"shards": 1})
    source = IndexSource(finished_pipeline.vectors, finished_pipeline.features.dataset, read_origin(first.index))
    publish_full_index(source, config, Workspace(tmp_path))
    assert search() == (2, before[1])
    add_tag(first.index.root, "old", 1)
    assert search(version="1") == search(version="old") == before
    assert [client.get("/api/v1/overview", params={"version": v}).json()["version"] for v in ("old", "")] == [1, 2]
    rollback(first.index.root, 1)
    assert search() == before
    arguments = [
        "search",
        "a dog",
        "--plan",
        str(small_plan(finished_pipeline.plan.workspace.parent)),
        "--set",
        f"workspace={tmp_path}",
    ]
    assert CliRunner().invoke(build_app(), [*arguments, "--version", "2", "-k", "3"]).output.count("\n") == 3
    missing = CliRunner().invoke(build_app(), [*arguments, "--version", "new"])
    assert "'new' is not a version and not a tag of" in str(missing.exception)
    assert "its tags are: old" in str(missing.exception)


def test_versions_share_models_and_close_when_nothing_uses_them(finished_pipeline, tmp_path, monkeypatch):
    plan = finished_pipeline.plan.model_copy(update={"workspace": tmp_path})
    shutil.copytree(finished_pipeline.plan.workspace / "index", tmp_path / "index")
    for name in ("models", "stores", "dataset"):
        (tmp_path / name).symlink_to(finished_pipeline.plan.workspace / name)
    with Searcher(plan).index as index:
        origin = read_origin(index)
    source = IndexSource(finished_pipeline.vectors, finished_pipeline.features.dataset, origin)
    for shards in (1, 3):
        publish_full_index(source, plan.index.model_copy(update={"shards": shards}), Workspace(tmp_path))
    loads: Counter[str] = Counter()
    for name in ("OnnxEncoder", "_build"):
        load = getattr(encoder_pool, name)
        monkeypatch.setattr(encoder_pool, name, lambda *args, n=name, f=load: loads.update([n]) or f(*args))
    reloader = open_searchers(plan)
    photo = finished_pipeline.features.dataset.images[0].path
    for version in (None, 1, 2, 1, 2, None):
        with reloader.borrow(version) as searcher:
            assert searcher.search_text("a dog", 3)
            assert searcher.search_image(photo, 3) == searcher.search_image(photo.read_bytes(), 3)
    assert loads == {"OnnxEncoder": 1, "_build": 1}
    with reloader.borrow() as searcher:
        former = weakref.ref(searcher)
        rollback(tmp_path / "index", 1)
        monkeypatch.setattr(reloader, "_poll_seconds", 0)
        with reloader.borrow() as newer:
            assert (newer.index.version, reloader.served.index.version) == (1, 1)
        assert searcher.search_text("a dog", 3), "a request keeps its version"
    del searcher
    gc.collect()
    assert former() is None, "the former version is closed after its last request"
    with pytest.raises(ValueError, match="another extractor"):
        encoder_pool.make_plan_pool(plan).get_region_extractor("regions-other")


def test_regions_of_many_hits_are_those_of_each_hit_alone(searcher):
    hits = searcher.search_text("a dog", 36)
    pages = [searcher.search([make_text_query("a dog")], 1, offset)[0].hits for offset in range(36)]
    for hit, (alone,) in zip(hits, pages, strict=True):
        assert (hit.id, hit.score, hit.size) == (alone.id, alone.score, alone.size)
        assert [(r.box, r.label) for r in hit.regions] == [(r.box, r.label) for r in alone.regions]
        assert [r.score for r in hit.regions] == pytest.approx([r.score for r in alone.regions], abs=1e-6)


def test_command_says_which_part_of_a_query_the_model_does_not_know(finished_pipeline):
    plan = ["--plan", str(small_plan(finished_pipeline.plan.workspace.parent)), "-k", "2"]
    result = CliRunner().invoke(build_app(), ["search", "dogs \U0001f984", *plan])
    assert result.exit_code == 0
    assert "The model does not know 1 of the 2 parts of the query." in result.stderr
    assert len(result.stdout.splitlines()) == 2
    result = CliRunner().invoke(build_app(), ["search", "\U0001f984", *plan])
    assert isinstance(result.exception, ValueError), "`main` prints it and exits with 1"
    assert "knows no part of the query '\U0001f984'" in str(result.exception)


def test_answer_says_which_part_of_a_query_the_model_does_not_know(client):
    note = "The model does not know 1 of the 2 parts of the query."
    assert client.get("/api/v1/search", params={"q": "dogs \U0001f984"}).json()["note"] == note
    assert client.get("/api/v1/search", params={"q": "dogs"}).json()["note"] == ""
