"""The API over a finished pipeline: queries of every kind, images and metadata by id, versions, its own document."""

import base64
import io
import re
from functools import partial
from pathlib import Path

import pytest
from PIL import Image as Picture

from index.search import HotReloader
from pipeline.search.query import ImagePart, PhotoPart, Query, TextPart, VectorPart
from tests.helpers.fake_searchers import wait_until_ready

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.service.api.openapi import list_operations  # noqa: E402 - needs the extra
from pipeline.service.app import create_app  # noqa: E402

pytestmark = pytest.mark.slow
API = "/api/v1"


@pytest.fixture(scope="module")
def client(searcher):
    app = create_app(HotReloader(searcher.index.root, searcher.with_version, poll_seconds=0))
    with testclient.TestClient(app, base_url="http://localhost") as client:
        assert wait_until_ready(client).json() == {"status": "ready", "version": 1}
        yield client


@pytest.fixture(scope="module")
def image(finished_pipeline):
    return finished_pipeline.features.dataset.images[0]


def test_queries_of_all_kinds_return_the_hits_of_the_searcher(client, searcher, image):
    photo = image.path.read_bytes()
    vector = searcher.embed_text("a dog")[0]
    body = [
        {"parts": [{"text": "a dog"}]},
        {"parts": [{"text": "a dog"}, {"text": "people", "weight": -0.5}], "for": "captions"},
        {"parts": [{"image_id": image.id}, {"text": "at night", "weight": 0.25}]},
        {"parts": [{"vector": vector.tolist()}]},
        {"parts": [{"photo": base64.b64encode(photo).decode()}, {"text": "a boat", "weight": 2}]},
    ]
    queries = [
        Query((TextPart("a dog"),)),
        Query((TextPart("a dog"), TextPart("people", -0.5)), "caption"),
        Query((ImagePart(image.id), TextPart("at night", weight=0.25))),
        Query((VectorPart(vector),)),
        Query((PhotoPart(photo), TextPart("a boat", 2.0))),
    ]
    answer = client.post(f"{API}/search", json={"queries": body, "k": 4, "where": "split = 'train'"}).json()
    expected = searcher.search(queries, 4, where="split = 'train'")
    assert answer["version"] == 1
    for found, reference in zip(answer["answers"], expected, strict=True):
        assert [hit["id"] for hit in found["hits"]] == [hit.id for hit in reference.hits]
        assert [hit["score"] for hit in found["hits"]] == pytest.approx([hit.score for hit in reference.hits], abs=1e-5)
    assert all(hit["id"] != image.id for hit in answer["answers"][2]["hits"]), "the image that asks is left out"


def test_photo_finds_images_or_captions(client, searcher, image):
    for target, kind in (("images", "image"), ("captions", "caption")):
        answer = client.post(f"{API}/search/photo", params={"for": target, "k": 3}, content=image.path.read_bytes())
        expected = searcher.search([Query((PhotoPart(image.path),), kind)], 3)[0].hits
        assert [hit["id"] for hit in answer.json()["hits"]] == [hit.id for hit in expected]


def test_pages_of_results_follow_each_other(client):
    def search(**options):
        answer = client.get(f"{API}/search", params={"q": "a dog", **options}).json()
        return [hit["id"] for hit in answer["hits"]]

    assert search(k=3) + search(k=3, offset=3) == search(k=6)
    assert search(offset=1_000) == []


def test_regions_are_left_out_on_request(client):
    parameters = {"q": "a dog", "k": 5, "explain": False}
    assert all(
        hit["regions"] == hit["words"] == [] for hit in client.get(f"{API}/search", params=parameters).json()["hits"]
    )
    (hit, *_) = client.get(f"{API}/search", params=parameters | {"explain": True}).json()["hits"]
    assert [(word["word"], word["start"], word["end"]) for word in hit["words"]] == [("a", 0, 1), ("dog", 2, 5)]


def test_failed_queries_of_a_request_are_all_named(client):
    queries = [{"parts": [{"text": text}]} for text in ("a dog", " ", "a cat", "\U0001f984")]
    answer = client.post(f"{API}/search", json={"queries": queries})
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/queries/1", "/queries/3"]


def test_image_is_sent_as_its_file_with_etag_and_ranges(client, image):
    content = image.path.read_bytes()
    answer = client.get(f"{API}/images/{image.id}")
    assert (answer.content, answer.headers["content-type"]) == (content, "image/jpeg")
    again = client.get(f"{API}/images/{image.id}", headers={"If-None-Match": answer.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    part = client.get(f"{API}/images/{image.id}", headers={"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, content[10:20])
    assert part.headers["content-range"] == f"bytes 10-19/{len(content)}"
    head = client.head(f"{API}/images/{image.id}")
    assert (head.content, head.headers["content-length"]) == (b"", str(len(content)))


def test_thumbnail_has_the_requested_size(client, image):
    for size in (16, 100, 360):
        thumbnail = Picture.open(io.BytesIO(client.get(f"{API}/thumbnails/{image.id}?size={size}").content))
        assert thumbnail.width <= size
        assert max(thumbnail.width / size, thumbnail.height / (0.75 * size)) > 0.9
    assert client.get(f"{API}/thumbnails/no.jpg").status_code == 404


def test_only_images_below_the_folder_of_images_are_sent(client, searcher, image, monkeypatch, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    Picture.new("RGB", (8, 8)).save(tmp_path / "other.png")
    row = searcher.index.get_metadata([image.id])[image.id]
    for path in (str(tmp_path / "secret.txt"), str(tmp_path / "other.png"), "../images/" + row.path, "", ".", "a\0b"):
        changed = row._replace(path=path)
        monkeypatch.setattr(
            "index.search.index.Index.get_metadata", lambda self, ids, kind="image", r=changed: {ids[0]: r}
        )
        for route in ("images", "thumbnails"):
            answer = client.get(f"{API}/{route}/{image.id}")
            assert (answer.status_code, "secret" in answer.text) == (404, False), path


def test_items_have_the_metadata_of_images_and_captions(client, finished_pipeline, image):
    captions = finished_pipeline.features.dataset.captions_by_image_id[image.id]
    item = client.get(f"{API}/items/{image.id}").json()
    width, height = Picture.open(image.path).size
    assert (item["kind"], item["width"], item["height"], item["split"]) == ("image", width, height, image.split)
    assert {caption["id"]: caption["text"] for caption in item["captions"]} == {c.id: c.text for c in captions}
    item = client.get(f"{API}/items/{captions[0].id.replace('#', '%23')}").json()
    assert (item["kind"], item["text"], item["image_id"]) == ("caption", captions[0].text, image.id)


def test_python_example_of_the_guide_prints_the_hits(searcher, monkeypatch, capsys):
    guide = Path(__file__).parents[3] / "docs" / "how-to" / "serve.md"
    (example,) = (
        block for block in re.findall(r"```python\n(.*?)```", guide.read_text("utf-8"), re.DOTALL) if "httpx" in block
    )
    app = create_app(HotReloader(searcher.index.root, searcher.with_version))  # the example closes it
    monkeypatch.setattr("httpx.Client", partial(testclient.TestClient, app))
    exec(example, {})
    hits = searcher.search_text("two dogs", 3)
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [hit.id for hit in hits]


def test_versions_are_listed_with_counts(client, finished_pipeline):
    dataset = finished_pipeline.features.dataset
    assert client.get(f"{API}/versions").json() == {
        "served": 1,
        "versions": [
            {
                "version": 1,
                "tags": [],
                "counts": {"image": len(dataset.images), "caption": len(dataset.captions)},
                "is_served": True,
                "is_rejected": False,
            }
        ],
    }


def test_metrics_count_requests_and_time_stages(client):
    client.get(f"{API}/search", params={"q": "a dog"})
    text = client.get("/metrics").text
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(values['tern_requests_total{method="GET",route="/api/v1/search",status="200"}']) >= 1
    for stage in ("wait", "embed", "search", "explain", "total"):
        assert float(values[f'tern_stage_seconds_count{{stage="{stage}"}}']) >= 1, stage
    assert (values["tern_served_version"], values["tern_reload_failures_total"]) == ("1.0", "0.0")
    assert values['tern_queue_length{queue="query"}'] == "0.0"


def test_commands_of_the_document_are_answered(client, image):
    """What the page of the API shows works as it is, apart from the ids and the filter of another dataset."""
    operations = list_operations(client.get(f"{API}/openapi.json").json())
    assert {operation.path for operation in operations} >= {f"{API}/search", f"{API}/images/{{image_id}}", "/metrics"}
    for operation in operations:
        path = re.search(r"http://127\.0\.0\.1:8080([^' ]*)", operation.command)[1].replace("scene-00110.jpg", image.id)
        if operation.path.endswith("/photo"):
            answers = [client.post(path, content=image.path.read_bytes())]
        elif operation.method == "POST":
            examples = [example.replace("scene-00110.jpg", image.id) for example in operation.body_examples]
            headers = {"Content-Type": "application/json"}
            answers = [client.post(path, content=example, headers=headers) for example in examples]
        else:
            answers = [client.get(path)]
        assert answers, operation.path
        assert [answer.status_code for answer in answers] == [200] * len(answers), operation.path
        page = client.get(f"{API}/docs").text
        assert operation.summary in page
