"""The page that describes the API: each request can be sent from it, and it needs no other host."""

import re

import pytest

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.service.api.openapi import list_operations  # noqa: E402 - needs the extra
from pipeline.service.app import create_app  # noqa: E402
from tests.helpers.fake_searchers import FakeReloader, FakeSearcher  # noqa: E402


def test_page_has_a_form_per_request_and_loads_files_of_the_service_only(tmp_path):
    app = create_app(FakeReloader(FakeSearcher(), tmp_path))
    client = testclient.TestClient(app, base_url="http://localhost")
    page = client.get("/api/v1/docs").text
    forms = re.findall(
        r'<form class="try" data-method="(\w+)" data-path="([^"]+)" hidden>(.*?)</form>', page, re.DOTALL
    )
    operations = list_operations(app.openapi())
    assert [(method, path) for method, path, _ in forms] == [(one.method, one.path) for one in operations]
    for operation, (_, path, form) in zip(operations, forms, strict=True):
        fields = re.findall(r'name="(\w+)" data-in="(\w+)"', form)
        assert fields == [(one.name, one.location) for one in operation.parameters], path
        assert ('type="file"' in form) == path.endswith("/search/photo")
        assert ("<textarea" in form) == bool(operation.body_examples)
    sources = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert {"../../static/docs/try.js", "../../static/docs/docs.css"} <= set(sources)
    for source in sources:
        assert client.get(f"/api/v1/{source}").status_code == 200, source
