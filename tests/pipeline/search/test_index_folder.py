"""An index is searched without its plan: a copy with the folder of its model, and an index of imported vectors."""

import json
import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

from data.store.store import Store
from pipeline.cli.app import build_app
from pipeline.search import (
    ImagePart,
    Query,
    Searcher,
    TextPart,
    VectorPart,
    open_index_searcher,
    open_index_searchers,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def copied(finished_pipeline, tmp_path_factory):
    """A folder with copies of the index and of the folder of its model, and of nothing else."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(finished_pipeline.plan.workspace / "index", folder / "index")
    shutil.copytree(finished_pipeline.model, folder / "models" / finished_pipeline.model.name)
    return folder


def list_hits(answers):
    return [[(hit.id, hit.score, hit.captions) for hit in answer.hits] for answer in answers]


def run(*words):
    return CliRunner().invoke(build_app(), ["search", *map(str, words)])


def test_copied_index_gives_the_hits_of_the_plan_without_regions(finished_pipeline, copied, tmp_path):
    searcher, images = Searcher(finished_pipeline.plan), finished_pipeline.features.dataset.images
    queries = [Query((TextPart("a dog"), ImagePart(images[3].id))), Query((TextPart("a street"),), "caption")]
    expected = searcher.search(queries, 6, offset=1)
    moved = shutil.copytree(copied / "models" / finished_pipeline.model.name, tmp_path / "model of another name")
    for model in (None, moved):
        with_folder = open_index_searcher(copied / "index", model, images[0].path.parent)
        answers = with_folder.search(queries, 6, offset=1)
        assert list_hits(answers) == list_hits(expected)
        assert [hit.path for hit in answers[0].hits] == [hit.path for hit in expected[0].hits]
        assert not any(hit.regions for hit in answers[0].hits)
        assert "hits come without regions" in with_folder.note
        with_folder.close()
    region = Query((ImagePart(images[0].id, (0, 0, 50, 50)),))
    with pytest.raises(ValueError, match="no extractor for new photos"):
        open_index_searcher(copied / "index", None, images[0].path.parent).search([region])


def test_command_searches_a_copied_index(finished_pipeline, copied):
    folder = finished_pipeline.features.dataset.images[0].path.parent
    expected = Searcher(finished_pipeline.plan).search_text("a dog", 3)
    result = run("a dog", "--index", copied / "index", "--image-folder", folder, "-k", 3, "--paths")
    assert result.exit_code == 0, result.output
    assert result.stdout.splitlines() == [str(hit.path) for hit in expected]
    result = run("a dog", "--index", copied / "index", "-k", 3, "--json", "--version", "1")
    assert [hit["id"] for hit in json.loads(result.stdout)["hits"]] == [hit.id for hit in expected]
    assert "hits come without regions" in result.stderr


def test_index_of_imported_vectors_is_searched_with_a_model(finished_pipeline, copied, tmp_path):
    store = Store(finished_pipeline.vectors.images)
    vectors = store.read("features", store.ids).astype("f4")
    for words in (
        ["export", tmp_path / "exported", "--index", copied / "index"],
        ["import", tmp_path / "exported", "--output", tmp_path / "imported"],
    ):
        made = CliRunner().invoke(build_app(), ["index", *map(str, words)])
        assert made.exit_code == 0, made.output + str(made.exception)
    model = finished_pipeline.model
    searcher = open_index_searcher(tmp_path / "imported", model)
    (answer,) = searcher.search([Query((VectorPart(vectors[4]), TextPart("a dog")))], 5)
    query = vectors[4] / np.linalg.norm(vectors[4]) + searcher.embed_text("a dog")[0]
    order = np.argsort(-(vectors / np.linalg.norm(vectors, axis=1, keepdims=True)) @ query)
    assert [hit.id for hit in answer.hits] == [store.ids[i] for i in order[:5]]
    assert "because no plan made the index. Pass its model" in str(
        run("a dog", "--index", tmp_path / "imported").exception
    )


def test_wrong_folders_are_refused(finished_pipeline, copied, tmp_path):
    for words, message in [
        (["--index", tmp_path / "gone"], "does not contain an index"),
        (["--index", tmp_path], "published"),
        (["--index", copied / "index", "--model", tmp_path], "is not a model package"),
        (["--index", copied / "index", "--version", "77"], "There is no version 77"),
    ]:
        result = run("a dog", *words)
        assert result.exit_code == 1
        assert message in str(result.exception), words


def test_service_of_a_copied_index_gives_the_hits_and_images_of_the_plan(finished_pipeline, copied):
    testclient = pytest.importorskip("fastapi.testclient")
    from pipeline.service.app import create_app

    image = finished_pipeline.features.dataset.images[0]
    expected = Searcher(finished_pipeline.plan).search_text("a dog", 5)
    for folder, status in ((image.path.parent, 200), (None, 404)):
        app = create_app(open_index_searchers(copied / "index", None, folder))
        with testclient.TestClient(app, base_url="http://localhost") as client:
            answer = client.get("/api/v1/search", params={"q": "a dog", "k": 5, "version": "1"}).json()
            hits = [(hit["id"], pytest.approx(hit["score"], abs=1e-5)) for hit in answer["hits"] + answer["weak"]]
            assert hits == [(hit.id, hit.score) for hit in expected]
            for route in ("images", "thumbnails"):
                assert client.get(f"/api/v1/{route}/{image.id}").status_code == status, "no folder, no files"
            assert client.get("/", params={"q": "a dog"}).status_code == 200


def test_serve_opens_the_folder_that_index_names(finished_pipeline, copied, tmp_path, monkeypatch):
    server = pytest.importorskip("pipeline.service.server")
    served = []
    monkeypatch.setattr(server, "serve", lambda searchers, options: served.append(searchers.served.index.root))
    result = CliRunner().invoke(build_app(), ["serve", "--index", str(copied / "index"), "--port", "8099"])
    assert result.exit_code == 0, result.output + str(result.exception)
    assert served == [copied / "index"]
    assert "no images are sent" in result.stderr
    assert "hits come without regions" in result.stderr
    for words, message in [
        (["--index", tmp_path / "gone"], "does not contain an index"),
        (["--index", tmp_path], "published"),
        (["--index", copied / "index", "--model", tmp_path], "is not a model package"),
    ]:
        result = CliRunner().invoke(build_app(), ["serve", *map(str, words)])
        assert (result.exit_code, len(served)) == (1, 1)
        assert message in str(result.exception), words
    result = CliRunner(env={"COLUMNS": "300"}).invoke(build_app(), ["serve", "--model", "m"])
    assert (result.exit_code, "Pass --index too." in result.output) == (2, True)
