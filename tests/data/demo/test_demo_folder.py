"""The demo dataset is never drawn among the files of somebody else."""

import pytest

from data.config import DemoConfig
from data.demo import generate_demo_dataset

CONFIG = DemoConfig(images=3, splits={"train": 1, "val": 1, "test": 1})


@pytest.mark.parametrize("name", ["images/scene-00001.jpg", "dataset_demo.json", "notes/a.txt"])
def test_folder_with_other_files_is_refused_and_keeps_them(name, tmp_path):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text("mine")
    with pytest.raises(ValueError, match="holds other files, such as"):
        generate_demo_dataset(CONFIG, tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [tmp_path / name]


def test_folder_of_a_run_that_was_killed_at_its_start_is_used(tmp_path):
    (tmp_path / "images").mkdir()
    generate_demo_dataset(CONFIG, tmp_path)
    (tmp_path / "images" / "scene-00001.jpg").unlink()
    assert generate_demo_dataset(CONFIG, tmp_path) == tmp_path
