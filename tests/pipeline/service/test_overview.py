"""What is indexed, over HTTP: the columns that filters may name, and the overview of the start page."""

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest
from PIL import Image as Picture

from index.search import HotReloader

testclient = pytest.importorskip("fastapi.testclient")

from pipeline.service.app import create_app  # noqa: E402 - needs the extra

pytestmark = pytest.mark.slow
API = "/api/v1"


@pytest.fixture(scope="module")
def client(searcher):
    app = create_app(HotReloader(searcher.index.root, searcher.with_version))
    return testclient.TestClient(app, base_url="http://localhost")


def test_columns_are_those_of_the_dataset(client, finished_pipeline):
    dataset = finished_pipeline.features.dataset
    widths = [Picture.open(image.path).width for image in dataset.images]
    for target, items in (("images", dataset.images), ("captions", dataset.captions)):
        answer = client.get(f"{API}/columns", params={"for": target}).json()
        columns = {column["name"]: column for column in answer["columns"]}
        assert answer["version"] == 1
        splits = Counter(getattr(item, "split", None) or dataset.images_by_id[item.image_id].split for item in items)
        assert {one["value"]: one["count"] for one in columns["split"]["values"]} == splits
        assert columns["caption"] == {"name": "caption", "type": "text", "values": [], "minimum": None, "maximum": None}
        assert ("text" in columns) == (target == "captions")
    columns = client.get(f"{API}/columns").json()["columns"]
    (width,) = (column for column in columns if column["name"] == "width")
    assert (width["type"], width["minimum"], width["maximum"]) == ("number", min(widths), max(widths))
    for column in columns:  # a filter may name each of them
        parameters = {"q": "a dog", "where": f"{column['name']} is not null", "k": 1}
        assert len(client.get(f"{API}/search", params=parameters).json()["hits"]) == 1


def test_overview_has_examples_of_images_that_the_model_was_not_trained_on(client, finished_pipeline):
    dataset = finished_pipeline.features.dataset
    overview = client.get(f"{API}/overview").json()
    assert overview["counts"] == {"image": len(dataset.images), "caption": len(dataset.captions)}
    assert [overview[name] for name in ("accepts_photos", "has_words", "has_boxes", "version")] == [True, True, True, 1]
    assert overview["model"] == finished_pipeline.model.name
    assert datetime.now(UTC) - datetime.fromisoformat(overview["published"]) < timedelta(days=1)
    columns = client.get(f"{API}/columns").json()["columns"]
    assert overview["columns"] == [column["name"] for column in columns]
    examples = overview["examples"]
    assert len({example["image_id"] for example in examples}) == len({example["text"] for example in examples}) == 8
    for example in examples:
        image = dataset.images_by_id[example["image_id"]]
        assert image.split != "train"
        assert example["text"] in {caption.text for caption in dataset.captions_by_image_id[image.id]}
    assert overview == client.get(f"{API}/overview").json()


def test_regions_of_an_item_have_the_numbers_that_words_name(client, searcher):
    hit = searcher.search_text("two dogs", 1)[0]
    regions = client.get(f"{API}/items/{hit.id}").json()["regions"]
    assert len(regions) == len(searcher.stored_images.read_regions(hit.id)[1])
    named = [word for word in hit.words if word.box is not None]
    assert named
    for word in named:
        assert regions[word.region]["box"] == pytest.approx(word.box)
