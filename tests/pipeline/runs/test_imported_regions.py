"""From region features of other software to an index that is searched, by calls and by commands."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from data.exchange.region_export import export_regions
from data.store.store import Store
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.plans.plan import Plan
from pipeline.runs.runner import Finished, PipelineRunner
from pipeline.search import ImagePart, PhotoPart, Query
from pipeline.search.explain import remove_regions
from pipeline.search.searcher import Searcher
from tests.helpers.region_files import fill, some
from tests.helpers.reranked import score_images
from tests.helpers.small_plan import extract_features, small_plan

pytestmark = pytest.mark.slow

RUN = CliRunner()


@pytest.fixture(scope="module")
def imported(finished_pipeline, tmp_path_factory) -> tuple[Plan, Path]:
    """A plan with regions imported from a TSV that lacks one image and has a broken line, and the store's folder."""
    root = tmp_path_factory.mktemp("imported")
    export_regions(finished_pipeline.features.regions, root / "obj.tsv", "lxmert-tsv", id_template="stem")
    lines = (root / "obj.tsv").read_bytes().splitlines(keepends=True)
    lines[1] = lines[1][:200] + b"\r\n"
    del lines[5]
    (root / "obj.tsv").write_bytes(b"".join(lines))
    (root / "classes.txt").write_text("\n".join(Store(finished_pipeline.features.regions).recipe["classes"]))
    options = ["--id-template", "{id}.jpg", "--float16", "--classes", str(root / "classes.txt")]
    found = RUN.invoke(
        build_app(), ["store", "import", str(root / "obj.tsv"), "--output", str(root / "stores"), *options]
    )
    assert found.exit_code == 0, found.output
    assert "obj.tsv: lxmert-tsv" in found.stdout
    assert "34 imported, 1 invalid" in found.stdout
    assert "columns, not 10" in found.stderr
    folder = Path(re.search(r'regions_store = "(.*)"', found.stdout.replace("\n", ""))[1])
    dataset = finished_pipeline.plan.workspace / "dataset"
    text = (small_plan(root).read_text().split("[demo]")[0]) + f'regions_store = "{folder}"\n'
    text += f'[dataset]\nname = "x"\nannotations = "{dataset}/dataset_demo.json"\nimages = "{dataset}/images"\n'
    text += "[text]" + small_plan(root).read_text().split("[text]")[1]
    (root / "plan.toml").write_text(text)
    return load_plan(str(root / "plan.toml")), folder


@pytest.fixture(scope="module")
def finished_import(imported) -> Finished:
    finished = PipelineRunner(imported[0]).run_all()
    assert finished.index.is_file()
    return finished


def test_plan_uses_the_store_and_lists_missing_images(finished_pipeline, imported, finished_import):
    names = [image.id for image in finished_pipeline.features.dataset.images]
    theirs, ours = Store(finished_pipeline.features.regions), Store(imported[1])
    assert finished_import.features.regions == imported[1]
    np.testing.assert_array_equal(ours.read("features", ours.ids), theirs.read("features", ours.ids))
    lost = {record.name: record.reason for record in finished_import.features.invalid_records}
    assert set(lost) == set(names) - set(ours.ids) == {theirs.ids[1], theirs.ids[5]}
    assert "columns, not 10" in lost[theirs.ids[1]]
    assert lost[theirs.ids[5]] == f"not in the store {imported[1]}"
    assert {image.id for image in finished_import.features.dataset.images} == set(ours.ids)
    rows = json.loads(finished_import.index.read_text())["collections"]["image"]["counts"]["live"]
    assert rows == len(ours.ids)
    assert PipelineRunner(imported[0]).run_all().index == finished_import.index, "without changes no version is created"


def test_search_by_text_and_by_photo(finished_pipeline, imported, finished_import, tmp_path):
    searcher, store = Searcher(imported[0]), Store(finished_import.vectors.images)
    hits = searcher.search_text("two dogs are running along the street", 5)
    scores = score_images(searcher, finished_import.vectors, "two dogs are running along the street")
    assert {hit.id for hit in hits} == set([*scores][:5])
    np.testing.assert_allclose([hit.score for hit in hits], [*scores.values()][:5], atol=1e-3)
    assert all(hit.path.is_file() and all(region.label for region in hit.regions) for hit in hits)
    assert any(hit.regions for hit in hits)
    copy = shutil.copy(
        finished_pipeline.features.dataset.images_by_id[store.ids[3]].path, tmp_path / "copy-under-another-name.jpg"
    )
    vector = store.read("features", [store.ids[3]])[0].astype("f4")
    np.testing.assert_allclose(searcher.embed_image(Path(copy))[0], vector, atol=4e-3)
    assert len(searcher.search_image(Path(copy), 4)) == 4
    (tmp_path / "other.jpg").write_bytes(b"other")
    with pytest.raises(
        ValueError, match=r"other\.jpg is not an image of this plan\. .* it has no detector for new photos"
    ):
        searcher.search_image(tmp_path / "other.jpg")


def test_region_of_an_image_is_embedded_from_the_stored_regions_in_it(finished_pipeline, imported, finished_import):
    searcher, store = Searcher(imported[0]), Store(finished_import.features.regions)
    name = store.ids[3]
    features, boxes, scores = (store.read(field, [name]) for field in ("features", "boxes", "scores"))
    smallest = min(boxes.tolist(), key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))
    x1, y1, x2, y2 = box = tuple(float(round(value)) for value in smallest)
    rows = []
    for i, (left, top, right, bottom) in enumerate(boxes.astype(float)):
        cut = max(left, x1), max(top, y1), min(right, x2), min(bottom, y2)
        area = max(cut[2] - cut[0], 0) * max(cut[3] - cut[1], 0)
        if area >= (right - left) * (bottom - top) / 2:
            rows.append((i, [cut[0] - x1, cut[1] - y1, cut[2] - x1, cut[3] - y1]))
    assert 1 <= len(rows) < len(boxes), "the image has regions in the box and outside"
    selected = [i for i, _ in rows]
    cut_boxes = np.array([cut for _, cut in rows], "f4")
    expected = searcher._encoder.embed_regions(
        [(features[selected], cut_boxes, (int(x2 - x1), int(y2 - y1)), scores[selected])]
    ).vectors
    photo = finished_pipeline.features.dataset.images_by_id[name].path
    queries = [Query((ImagePart(name, box),)), Query((PhotoPart(photo, box),))]
    for embedding in searcher._embedder.embed(queries):
        np.testing.assert_allclose(embedding.vectors, expected, atol=1e-6)
    assert name not in {hit.id for answer in searcher.search(queries, 50) for hit in answer.hits}
    corner = (0.0, 0.0, 4.0, 4.0)
    with pytest.raises(ValueError, match=r"No region of .* half of its area in the box 0,0,4,4\. Pass"):
        searcher.search([Query((ImagePart(name, corner),))])
    with pytest.raises(ValueError, match="is not a region of an image of"):
        searcher.search([Query((ImagePart(name, (0, 0, 9999, 9)),))])


def test_store_that_does_not_fit_the_plan_is_rejected_by_name(finished_pipeline, imported, finished_import, tmp_path):
    plan = imported[0]
    stranger = fill(tmp_path, some(3))
    with pytest.raises(ValueError, match=r"None of the 36 images .* holds '7', the dataset '.*\.jpg'\. Import again"):
        extract_features(plan.model_copy(update={"regions_store": stranger}))
    with pytest.raises(ValueError, match=r"holds regions-.*\. Run `tern index` first"):
        Searcher(plan.model_copy(update={"regions_store": stranger}))
    with pytest.raises(ValueError, match=r"holds tokens\. Set `regions_store`"):
        extract_features(plan.model_copy(update={"regions_store": finished_pipeline.features.tokens}))
    with pytest.raises(FileNotFoundError, match="No store at"):
        extract_features(plan.model_copy(update={"regions_store": tmp_path / "gone"}))
    with pytest.raises(ValueError, match="regions_file and regions_store are set"):
        Plan.model_validate({**plan.model_dump(), "regions_file": {"path": "x", "feature_arrays": ["a"]}})


def test_regions_without_classes_are_matched_without_labels(finished_pipeline, imported, tmp_path):
    export_regions(imported[1], tmp_path / "b.tsv", "butd-tsv")
    made = RUN.invoke(build_app(), ["store", "import", str(tmp_path / "b.tsv"), "--output", str(tmp_path), "--float16"])
    store = Store(next(tmp_path.glob("regions-*")))
    assert made.exit_code == 0
    assert (store.read("class_ids", store.ids) == -1).all()
    searcher = Searcher(imported[0])
    searcher.stored_images.store = store
    (removed,) = remove_regions(store.ids[:1], searcher.stored_images, searcher._encoder).values()
    assert len(removed.boxes) > 1
    assert set(removed.labels) == {""}


def test_export_command(imported, tmp_path):
    folder, names = str(imported[1]), Store(imported[1]).ids
    (tmp_path / "list.txt").write_text("\n".join(names[3:0:-1]))
    command = [
        "store",
        "export",
        folder,
        "--format",
        "tern",
        "--output",
        str(tmp_path / "out"),
        "--id-template",
        "stem",
    ]
    found = RUN.invoke(build_app(), [*command, "--ids-file", str(tmp_path / "list.txt")])
    assert found.exit_code == 0, found.output
    assert f"tern  3 images in {tmp_path / 'out'}" in found.stdout.replace("\n", "")
    assert {p.stem for p in (tmp_path / "out" / "bu_att").iterdir()} == {Path(name).stem for name in names[1:4]}
    assert isinstance(RUN.invoke(build_app(), command).exception, FileExistsError)
    wrong = RUN.invoke(build_app(), ["store", "import", "x.tsv", "--output", "y", "--transposed", "maybe"])
    assert wrong.exit_code == 2
    assert isinstance(RUN.invoke(build_app(), [*command[:4], "tsv", *command[5:]]).exception, ValueError)
