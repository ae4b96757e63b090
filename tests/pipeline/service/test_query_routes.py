"""Which queue takes a query, and what is answered for a version that cannot be opened."""

import json
import tracemalloc

import pytest

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.search.query import ImagePart, PhotoPart, Query, TextPart  # noqa: E402 - needs the extra
from pipeline.service.api.dispatcher import Dispatcher  # noqa: E402
from pipeline.service.api.query_body import make_queries, parse_search_body  # noqa: E402
from pipeline.service.app import create_app  # noqa: E402
from pipeline.service.problems import MAX_ERRORS, InvalidRequestError  # noqa: E402
from tests.helpers.fake_searchers import FakeReloader, FakeSearcher  # noqa: E402

DOG, BOX = {"text": "a dog"}, [0, 0, 9, 9]


@pytest.fixture
def searcher():
    return FakeSearcher()


@pytest.fixture
def reloader(searcher, tmp_path):
    return FakeReloader(searcher, tmp_path)


@pytest.fixture
def client(reloader):
    return testclient.TestClient(create_app(reloader), base_url="http://localhost")


def find_errors(body):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(InvalidRequestError) as caught:
        make_queries(parse_search_body(content))
    return caught.value.errors


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"queries": [{"parts": [{"vector": ["a"] * 8_000}] * 16}] * 8}, ["/queries/0/parts/0/vector/0"]),
        ({"queries": [{"parts": [{"text": 1}] * 16}] * 64}, ["/queries/0/parts/0/text"]),
        (
            {"queries": [{"parts": [DOG]}], **{str(number): 0 for number in range(200_000)}},
            [f"/{number}" for number in range(MAX_ERRORS)],
        ),
        (
            {"queries": [{"parts": [DOG, DOG | {str(number): 0 for number in range(200_000)}]}]},
            [f"/queries/0/parts/1/{number}" for number in range(MAX_ERRORS)],
        ),
    ],
    ids=["numbers", "parts", "fields", "fields of a part"],
)
def test_body_with_many_errors_takes_little_memory(body, pointers):
    content = json.dumps(body).encode()
    tracemalloc.start()
    try:
        errors = find_errors(content)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [error.pointer for error in errors] == pointers
    assert peak < 40 << 20


def test_unknown_fields_are_all_named_with_their_place():
    body = {"queries": [{"parts": [DOG, DOG | {"wait": 1}], "to": 1}, {"parts": [DOG | {"image_id": "a"}]}], "n": 1}
    places = ["/n", "/queries/0/to", "/queries/0/parts/1/wait", "/queries/1/parts/0/text"]
    assert [error.pointer for error in find_errors(body)] == places


@pytest.mark.parametrize(
    ("parts", "cost"),
    [
        ([DOG, {"image_id": "a"}], 0),
        ([{"image_id": "a", "box": BOX}, DOG], 1),
        ([{"photo": "/9j/"}, {"photo": "/9j/", "box": BOX}, {"image_id": "a", "box": BOX}], 3),
    ],
)
def test_photos_and_boxes_of_images_wait_with_the_photos(client, monkeypatch, parts, cost):
    costs, run = [], Dispatcher.run

    async def record(self, version, requests, finish, cost=1):
        costs.append((self._threads[0].name.split("-")[0], cost))
        return await run(self, version, requests, finish, cost)

    monkeypatch.setattr(Dispatcher, "run", record)
    answer = client.post("/api/v1/search", json={"queries": [{"parts": parts}, {"parts": [DOG]}]})
    assert answer.status_code == 200
    assert costs == [("photo", cost) if cost else ("query", 2)]


def test_photos_and_boxes_of_images_are_limited_together():
    parts = [{"photo": "/9j/"}] * 4 + [{"image_id": "a", "box": BOX}] * 4
    make_queries(parse_search_body(json.dumps({"queries": [{"parts": parts}]}).encode()))
    (error,) = find_errors({"queries": [{"parts": parts}, {"parts": [{"image_id": "a", "box": BOX}]}]})
    assert (error.pointer, error.detail.split(";")[0]) == ("/queries", "9 photos and boxes of images")
    assert Query((PhotoPart(b""), ImagePart("a"), ImagePart("a", (0, 0, 1, 1)), TextPart("a"))).num_photos == 2


@pytest.mark.parametrize("error", [ValueError("/secret is damaged"), FileNotFoundError(2, "No such file", "/secret")])
def test_version_that_cannot_be_opened_is_no_unknown_version(client, reloader, monkeypatch, caplog, error):
    (reloader.root / "tags").mkdir()
    (reloader.root / "tags" / "broken.json").write_text("{")
    path = reloader.root / "versions" / "000002.json"
    monkeypatch.setattr("pipeline.service.api.searchers.manifest_path", lambda root, number: path)

    def fail(version=None):
        raise error

    monkeypatch.setattr(reloader, "borrow", fail)
    assert client.get("/api/v1/search?q=a&version=2").status_code == 404
    path.parent.mkdir()
    path.write_text("{}")
    for version in ("2", "broken"):
        caplog.clear()
        answer = client.get("/api/v1/search", params={"q": "a", "version": version})
        assert (answer.status_code, answer.headers["content-type"]) == (503, "application/problem+json")
        assert str(reloader.root) not in answer.text
        assert "/secret" not in answer.text
        assert any(record.levelname == "ERROR" and version in record.getMessage() for record in caplog.records)
