"""The search service gives what the searcher gives, keeps its paths to itself, and refuses what is too large."""

import pytest

from pipeline.search import Searcher

testclient = pytest.importorskip("fastapi.testclient")
serve = pytest.importorskip("pipeline.serve")


@pytest.fixture(scope="module")
def searcher(finished):
    return Searcher(finished.plan)


@pytest.fixture(scope="module")
def client(searcher):
    return testclient.TestClient(serve.application(searcher))


def test_sentences_find_what_the_searcher_finds(client, searcher, finished):
    answer = client.get("/search", params={"q": "two dogs on the street", "k": 3}).json()
    expected = searcher.by_text("two dogs on the street", 3)
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in expected]
    assert answer["version"] == searcher.index.version
    assert str(finished.plan.workspace) not in str(answer), "where files lie is nobody's business"


def test_photographs_find_captions(client, searcher, finished):
    path = finished.dataset.images[0].path
    answer = client.post("/search/image", params={"k": 4}, content=path.read_bytes()).json()
    assert [hit["id"] for hit in answer["hits"]] == [hit.id for hit in searcher.by_image(path, 4)]


def test_the_page_shows_pictures_and_escapes_the_query(client):
    assert "data:image/jpeg" in client.get("/", params={"q": "a dog"}).text
    assert "<script>alert" not in client.get("/", params={"q": "<script>alert(1)</script>"}).text
    assert "1 to 2,000 characters" in client.get("/", params={"q": "x" * 3000}).text
    assert client.get("/").status_code == 200


@pytest.mark.parametrize(
    ("ask", "status", "says"),
    [
        (lambda c: c.get("/search", params={"q": " "}), 422, "1 to 2,000 characters"),
        (lambda c: c.get("/search", params={"q": "a", "k": 0}), 422, "greater than or equal to 1"),
        (lambda c: c.get("/search", params={"q": "a", "k": 1000}), 422, "less than or equal to 100"),
        (lambda c: c.get("/search"), 422, "Field required"),
        (lambda c: c.post("/search/image", content=b"no picture"), 422, "cannot use the image the photograph"),
        (lambda c: c.post("/search/image", content=b""), 422, "cannot use the image the photograph"),
        (lambda c: c.post("/search/image", content=bytes(26 << 20)), 413, "more than"),
    ],
)
def test_what_cannot_be_answered_is_said(client, ask, status, says):
    answer = ask(client)
    assert answer.status_code == status
    assert says in answer.text
