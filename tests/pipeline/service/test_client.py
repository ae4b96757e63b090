"""`SearchClient` over a real connection: it finds what `Searcher` finds, and says what is wrong in one sentence."""

import socket
import threading
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.images import encode_thumbnail
from index.search import HotReloader
from pipeline.search.query import ImagePart, PhotoPart, Query, TextPart, VectorPart
from pipeline.service.client import SearchClient, SearchServiceError
from pipeline.service.limits import MAX_UPLOAD_BYTES
from tests.helpers.fake_searchers import FakeReloader, FakeSearcher
from tests.helpers.page_browser import serve_in_thread

pytest.importorskip("fastapi")

from pipeline.service.access.bearer_tokens import BearerTokens
from pipeline.service.app import create_app

BOX = (31.0, 12.0, 171.0, 132.0)


@pytest.fixture(scope="module")
def client(searcher):
    with serve_in_thread(create_app(HotReloader(searcher.index.root, searcher.with_version))) as url:
        yield SearchClient(url)


@pytest.fixture(scope="module")
def image(finished_pipeline):
    return finished_pipeline.features.dataset.images[0]


def check_equal(found, expected):
    """Compare an answer of the service with one of the searcher, field by field."""
    for hits, references in ((found.hits, expected.hits), (found.weak, expected.weak)):
        assert [hit.id for hit in hits] == [hit.id for hit in references]
        for hit, reference in zip(hits, references, strict=True):
            assert hit.score == pytest.approx(reference.score, abs=1e-5)
            assert hit.probability == pytest.approx(reference.probability, abs=1e-5)
            assert (hit.image_id, hit.size, tuple(hit.captions)) == (
                reference.image_id,
                reference.size,
                reference.captions,
            )
            for field in ("regions", "words"):
                pairs = zip(getattr(hit, field), getattr(reference, field), strict=True)
                assert all(vars(one).keys() == vars(other).keys() for one, other in pairs)
            assert [word.word for word in hit.words] == [word.word for word in reference.words]
            assert [region.box for region in hit.regions] == [region.box for region in reference.regions]
    assert found.note == expected.note


@pytest.mark.slow
def test_client_finds_what_the_searcher_finds(client, searcher, image):
    where, vector = "split = 'train'", searcher.embed_text("a dog")[0]
    check_equal(client.search_text("a dog", 5), searcher.search_text("a dog", 5))
    check_equal(client.search_text("two dogs", 3, where), searcher.search_text("two dogs", 3, where))
    check_equal(client.search_image(image.path, 4), searcher.search_image(image.path, 4))
    check_equal(client.search_image(image.path.read_bytes(), 4), searcher.search_image(image.path, 4))
    check_equal(client.search_similar(image.id, 4), searcher.search_similar(image.id, 4))
    queries = [
        (TextPart("a dog"), TextPart("people", -0.5)),
        (ImagePart(image.id, BOX), TextPart("at night", 0.25)),
        (VectorPart(vector, 2.0),),
        (PhotoPart(image.path, BOX), TextPart("a boat", 2.0)),
    ]
    parts = [
        [{"text": "a dog"}, {"text": "people", "weight": -0.5}],
        [{"image_id": image.id, "box": BOX}, {"text": "at night", "weight": 0.25}],
        [{"vector": vector, "weight": 2.0}],
        [{"photo": image.path, "box": BOX}, {"text": "a boat", "weight": 2.0}],
    ]
    for target, kind, unique in (("images", "image", False), ("images", "image", True), ("captions", "caption", False)):
        options = {"min_probability": 0.1, "unique": unique}
        expected = searcher.search([Query(query, kind) for query in queries], 4, 1, **options)
        found = client.search(parts, 4, 1, target=target, **options)
        assert [answer.version for answer in found] == [1] * 4
        for answer, reference in zip(found, expected, strict=True):
            check_equal(answer, reference)


@pytest.mark.slow
def test_client_reads_images_metadata_and_state(client, finished_pipeline, image):
    assert client.get_image(image.id) == image.path.read_bytes()
    assert client.get_thumbnail(image.id, 100) == encode_thumbnail(image.path, (100, 75))
    captions = finished_pipeline.features.dataset.captions_by_image_id[image.id]
    assert {caption.id for caption in client.get_item(image.id).captions} == {caption.id for caption in captions}
    assert client.get_item(captions[0].id).text == captions[0].text, "its id has a #"
    names = {
        target: {column.name for column in client.get_columns(target).columns} for target in ("images", "captions")
    }
    assert names["captions"] - names["images"] == {"text"}
    assert client.get_overview().counts["image"] == len(finished_pipeline.features.dataset.images)
    assert (client.get_versions().served, client.get_status().version) == (1, 1)
    with pytest.raises(SearchServiceError, match=r"no version '7'.*\(HTTP status 404\)") as caught:
        SearchClient(client._connection.url, version="7").search_text("a dog")
    assert (caught.value.status, caught.value.errors) == (404, ())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("call", "status", "message"),
    [
        (lambda client: client.search_text(" "), 422, "The query has 0 characters"),
        (lambda client: client.search_text("a dog", k=0), 422, "/k: Input should be greater than or equal to 1"),
        (lambda client: client.search_text("a dog", where="spl = 1"), 422, "spl"),
        (lambda client: client.search_similar("no.jpg"), 422, "no.jpg"),
        (lambda client: client.search([]), 422, "/queries"),
        (lambda client: client.search([[{"words": "a dog"}]]), 422, "/queries/0/parts/0/text: Field required"),
        (lambda client: client.search([[{"vector": [1.0]}]]), 422, "/queries/0"),
        (lambda client: client.search_image(b"no image"), 422, "photo"),
        (lambda client: client.get_image("../secret"), 404, "no image with this id"),
        (lambda client: client.get_item("a%2Fb é#"), 404, "no item with this id"),
        (lambda client: client.get_thumbnail("no.jpg", 5_000), 422, "size"),
    ],
)
def test_error_of_the_service_is_raised_with_its_text(client, call, status, message):
    with pytest.raises(SearchServiceError) as caught:
        call(client)
    assert caught.value.status == status
    assert message in str(caught.value)
    assert bool(caught.value.errors) == ("/" in caught.value.detail[:1] or "size" in message)


def test_photo_that_no_service_accepts_is_not_sent(tmp_path):
    photo = tmp_path / "large.jpg"
    with open(photo, "wb") as file:
        file.truncate(MAX_UPLOAD_BYTES + 1)
    client = SearchClient("http://127.0.0.1:1")
    for call in (client.search_image, lambda photo: client.search([[{"photo": photo}]])):
        with pytest.raises(ValueError, match=r"The photo has 26,214,401 bytes; a service accepts 26,214,400\."):
            call(photo)
        with pytest.raises(FileNotFoundError):
            call(Path("no.jpg"))


def test_token_is_sent_and_never_shown(tmp_path):
    app = create_app(FakeReloader(FakeSearcher(), tmp_path), tokens=BearerTokens(["a-token-of-some-length"]))
    with serve_in_thread(app) as url:
        assert SearchClient(url, "a-token-of-some-length").search_text("a dog").hits == []
        for token in (None, "another-token-of-mine"):
            client = SearchClient(url, token)
            with pytest.raises(SearchServiceError, match="HTTP status 401") as caught:
                client.search_text("a dog")
            assert "another-token" not in f"{caught.value} {vars(client)}"


@pytest.mark.parametrize(
    "url",
    ["127.0.0.1:8080", "ftp://host", "http://", "http://user:word@host", "http://host?q=1", "file:///etc/passwd", ""],
)
def test_address_that_is_none_is_refused(url):
    with pytest.raises(ValueError, match=r"Pass one such as 'http://127\.0\.0\.1:8080'"):
        SearchClient(url)


@contextmanager
def answer_with(content: bytes):
    """Answer each connection with some bytes and close it; with no bytes, leave it open. Yields the address."""
    requests = []

    def answer(listening: socket.socket) -> None:
        while True:
            try:
                connection, _ = listening.accept()
            except OSError:
                return
            with connection:
                requests.append(connection.recv(1 << 16))
                connection.sendall(content)
                if not content:
                    connection.recv(1 << 16)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=answer, args=(listening,), daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/base/", requests


def make_answer(status: str, media_type: str, body: str, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {media_type}", f"Content-Length: {len(body)}", *headers, "", body]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (
            make_answer("502 Bad Gateway", "text/html", "<p>"),
            SearchServiceError,
            "The answer is Bad Gateway as text/html",
        ),
        (
            make_answer("302 Found", "text/html", "", "Location: http://127.0.0.1:1/"),
            SearchServiceError,
            "The answer is Found",
        ),
        (make_answer("200 OK", "application/json", "{}"), SearchServiceError, "is not the JSON of the search service"),
        (make_answer("200 OK", "text/html", "<p>"), SearchServiceError, "is not the JSON of the search service"),
        (make_answer("400 Bad", "application/problem+json", "{"), SearchServiceError, "as application/problem"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n{}", ConnectionError, "does not answer"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", ConnectionError, "does not answer"),
        (b"", TimeoutError, "has sent nothing for 0.2 s"),
    ],
    ids=lambda value: value[:24].decode() if isinstance(value, bytes) else "",
)
def test_answer_of_something_else_is_named(content, error, message):
    with answer_with(content) as (url, requests), pytest.raises(error, match=message):
        SearchClient(url, timeout_seconds=0.2).get_versions()
    assert [request.split()[:2] for request in requests] == [[b"GET", b"/base/api/v1/versions"]], "asked once"


def test_busy_service_says_when_to_try_again():
    problem = '{"title": "Service Unavailable", "status": 503, "detail": "The service is busy."}'
    answer = make_answer("503 Service Unavailable", "application/problem+json", problem, "Retry-After: 2")
    with answer_with(answer) as (url, _), pytest.raises(SearchServiceError) as caught:
        SearchClient(url).search_text("a dog")
    assert (caught.value.status, caught.value.detail, caught.value.retry_seconds) == (503, "The service is busy.", 2)


def test_missing_service_is_named():
    with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:1 does not answer \(.*Start `tern serve`"):
        SearchClient("http://127.0.0.1:1").get_status()
