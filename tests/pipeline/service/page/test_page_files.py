"""The files of the search page: what the service sends of them, and what they have in common with the API."""

import re
from pathlib import Path

import pytest

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.search import query  # noqa: E402 - needs the extra
from pipeline.service.api.query_body import MAX_OFFSET  # noqa: E402
from pipeline.service.app import create_app  # noqa: E402
from pipeline.service.page.routes import read_page_files  # noqa: E402
from tests.helpers.fake_searchers import FakeReloader, FakeSearcher  # noqa: E402

STATIC = Path(__file__).parents[4] / "pipeline" / "service" / "page" / "static"
MAX_PAGE_BYTES = 30_000


@pytest.fixture
def client(tmp_path):
    return testclient.TestClient(create_app(FakeReloader(FakeSearcher(), tmp_path)), base_url="http://localhost")


def test_page_is_small_and_its_files_are_sent_once_per_content(client):
    assert len(client.get("/").content) < MAX_PAGE_BYTES
    names = {str(path.relative_to(STATIC)) for path in STATIC.rglob("*") if path.is_file()}
    assert names | {"style.css"} == set(read_page_files())
    for name in names:
        answer = client.get(f"/static/{name}")
        assert (answer.status_code, answer.content) == (200, (STATIC / name).read_bytes())
        again = client.get(f"/static/{name}", headers={"If-None-Match": answer.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize("name", ["../routes.py", "..%2froutes.py", "%2e%2e/routes.py", "core", "", "/etc/passwd"])
def test_no_other_file_is_sent(client, name):
    assert client.get(f"/static/{name}").status_code == 404


def test_modules_import_only_files_of_the_page_and_are_documented():
    for path in STATIC.rglob("*.js"):
        text = path.read_text("utf-8")
        for imported in re.findall(r"from '([^']+)'", text):
            assert (path.parent / imported).resolve().is_file(), f"{path} imports {imported}"
        assert text.startswith("/**"), f"{path} says in its first line what it contains"
        undocumented = re.findall(r"(?<!\*/\n)^export (?:async )?(?:function|class) (\w+)", text, re.MULTILINE)
        assert not undocumented, path
        assert len(text.splitlines()) <= 250
        assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write|eval\(|https?://(?!www\.w3\.org)", text), (
            path
        )


def test_numbers_of_the_page_are_those_of_the_search():
    parts, results = ((STATIC / name).read_text("utf-8") for name in ("query/parts.js", "results/list.js"))
    for name, value in (
        ("MAX_PARTS", query.MAX_PARTS),
        ("AVOIDED_BESIDE_TEXT", -query.AVOIDED_BESIDE_TEXT),
        ("AVOIDED_BESIDE_IMAGE", -query.AVOIDED_BESIDE_IMAGE),
        ("MAX_OFFSET", MAX_OFFSET),
    ):
        assert re.search(rf"const {name} = ([-\d.]+);", parts + results)[1] == f"{value:g}"
