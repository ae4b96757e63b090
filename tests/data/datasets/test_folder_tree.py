"""A folder tree alone is a dataset: which images it has, what is left out and counted, and what is an error."""

import errno
import os
import re
import tempfile
from pathlib import Path

import pytest

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from tests.helpers.permissions import run_as_nobody

TREE = {
    "a.jpg": "a",
    "B.JPEG": "b",
    "notes.txt": "",
    "Thumbs.db": "",
    ".DS_Store": "",
    ".hidden.jpg": "h",
    "._a.jpg": "h",
    ".trash/c.jpg": "h",
    "2019/c.png": "c",
    "2019/raw/d.tif": "d",
    "2019/raw/e.dng": "e",
    "holidays/é\u00a0f/g.webp": "g",
    "holidays/thumbnails/h.jpg": "h",
    "thumbnails/i.jpg": "i",
    "album.jpg/j.jpg": "j",
}
ALL = (
    "B.JPEG a.jpg 2019/c.png 2019/raw/d.tif album.jpg/j.jpg holidays/thumbnails/h.jpg holidays/é\u00a0f/g.webp "
    "thumbnails/i.jpg"
)


def write(root: Path, tree: dict[str, str]) -> Path:
    for name, text in tree.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


def load(images: Path, **settings: object) -> Dataset:
    return load_dataset(DatasetConfig.model_validate({"name": "mine", "images": images, **settings}))


@pytest.mark.parametrize(
    ("settings", "names", "num_excluded"),
    [
        ({}, ALL, 0),
        ({"max_depth": 1}, "B.JPEG a.jpg", 4),
        ({"max_depth": 2}, "B.JPEG a.jpg 2019/c.png album.jpg/j.jpg thumbnails/i.jpg", 3),
        ({"include": ["*.jpg"]}, "a.jpg album.jpg/j.jpg holidays/thumbnails/h.jpg thumbnails/i.jpg", 5),
        ({"include": ["*.jpe?g"]}, "", 0),
        ({"include": ["*.jp*g"]}, "B.JPEG a.jpg album.jpg/j.jpg holidays/thumbnails/h.jpg thumbnails/i.jpg", 4),
        ({"include": ["2019"]}, "2019/c.png 2019/raw/d.tif", 6),
        ({"include": ["2019/*"]}, "2019/c.png 2019/raw/d.tif", 6),
        ({"include": ["2019/*.png", "b.jpeg"]}, "B.JPEG 2019/c.png", 7),
        ({"include": ["HOLIDAYS/**/*.WEBP"]}, "holidays/é\u00a0f/g.webp", 8),
        ({"include": ["**/h.jpg"]}, "holidays/thumbnails/h.jpg", 8),
        ({"include": ["[ab].*"]}, "B.JPEG a.jpg", 7),
        ({"include": ["[!a].jpg"]}, "album.jpg/j.jpg holidays/thumbnails/h.jpg thumbnails/i.jpg", 6),
        ({"exclude": ["thumbnails"], "max_depth": 2}, "B.JPEG a.jpg 2019/c.png album.jpg/j.jpg", 4),
        ({"exclude": ["thumbnails/"], "include": ["[ht]*/**"]}, "holidays/é\u00a0f/g.webp", 8),
        ({"exclude": ["2019/raw/*", "*.jpg"]}, "B.JPEG 2019/c.png holidays/é\u00a0f/g.webp", 6),
        ({"include": ["2019"], "exclude": ["raw"]}, "2019/c.png", 7),
        ({"include": ["2019"], "exclude": ["raw"], "max_depth": 1}, "", 0),
    ],
)  # fmt: skip
def test_folder_tree_has_the_images_that_are_selected(tmp_path: Path, settings, names: str, num_excluded: int) -> None:
    write(tmp_path, TREE)
    expected = names.split(" ") if names else []
    if not expected:
        with pytest.raises(ValueError, match=r"that the settings leave out\. Set `images`"):
            load(tmp_path, **settings)
        return
    found = load(tmp_path, **settings)
    assert [image.id for image in found.images] == expected
    assert found.captions == ()
    assert set(found.captions_by_image_id) == set(expected)
    assert all(image.path == tmp_path / image.id for image in found.images)
    excluded = [note for note in found.notes if "`include`, `exclude` and `max_depth`" in note]
    assert [note.split()[2] for note in excluded] == [str(num_excluded)] * bool(num_excluded)
    assert any(note.startswith("Left out 3 hidden images and folders in ") for note in found.notes)
    assert any(note.startswith("Ignored 1 file in ") for note in found.notes)


def test_files_that_cannot_be_images_are_invalid_records(tmp_path: Path) -> None:
    write(tmp_path, TREE)
    (tmp_path / "link").symlink_to(tmp_path / "2019")
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "nothing")
    (tmp_path / "copy.jpg").symlink_to(tmp_path / "a.jpg")
    found = load(tmp_path)
    assert {record.name: record.reason for record in found.invalid_records} == {
        "2019/raw/e.dng": "files of the format .dng cannot be read; convert it to JPEG, PNG or TIFF",
        "album.jpg": "a folder, not a file: album.jpg",
        "gone.jpg": f"a link to nothing: gone.jpg -> {tmp_path / 'nothing'}",
        "link": "a link to a folder: its images are not found",
    }
    assert "copy.jpg" in found.images_by_id


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({}, "has no image: it holds no files. Set `images` to the folder of the images."),
        ({"a/.keep": ""}, "has no image: it holds no files."),
        ({f"{k}.txt": "" for k in range(12)} | {"b.pdf": "", "README": ""},
         "has no image: it holds 14 other files (12 .txt, 1 without an ending, 1 .pdf)."),
        ({f"a.{'x' * k}": "" for k in range(1, 9)}, ", 3 more endings)"),
        ({".a.jpg": "", ".b/c.jpg": ""}, "it holds no files and 2 hidden images and folders."),
        ({"a.heic": ""}, "none of its 1 images is valid. The first one: a.heic: files of the format .heic cannot"),
        ({"\x1b[2J.txt": "", "a.\x1b[2J": ""}, "1 .\\x1b[2j"),
    ],
    ids=str,
)  # fmt: skip
def test_folder_without_an_image_is_one_error(tmp_path: Path, tree: dict[str, str], message: str) -> None:
    write(tmp_path, tree)
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        load(tmp_path)
    assert str(tmp_path) in str(error.value)
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"format": "folder"}, "format is 'folder', but annotations is not set"),
        ({"format": "karpathy"}, "format is 'karpathy', but annotations is not set"),
        ({"annotations": "x.json", "include": ["*.jpg"]}, "include cannot be used with format = 'karpathy'"),
        ({"annotations": "x.json", "format": "karpathy", "max_depth": 2, "exclude": ["a"]}, "exclude and max_depth"),
        ({"max_depth": 0}, "greater than or equal to 1"),
        ({"include": [""]}, "not a pattern of paths below `images`"),
        ({"include": ["/"]}, "not a pattern"),
        ({"exclude": ["/home/me/photos/*"]}, "not a pattern"),
        ({"exclude": ["../other"]}, "not a pattern"),
        ({"exclude": ["a\\b"]}, "not a pattern"),
        ({"exclude": ["[z-a].jpg"]}, r"A set of characters in \[z-a\].jpg is not valid"),
    ],
    ids=str,
)
def test_settings_of_a_dataset_that_mean_nothing_are_refused(tmp_path: Path, settings, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load(tmp_path, **settings)


def test_missing_and_unreadable_folders_are_errors() -> None:
    with pytest.raises(FileNotFoundError, match="No folder of images at nothing"):
        load(Path("nothing"))
    with tempfile.TemporaryDirectory() as name:
        write(Path(name), {"photos/a.jpg": "a", "more/b.jpg": "b", "more/closed/c.jpg": "c"})
        for folder, mode in (("", 0o755), ("photos", 0o311), ("more", 0o755), ("more/closed", 0)):
            (Path(name) / folder).chmod(mode)

        def describe(folder: str) -> list[str]:
            try:
                return [f"{record.name}: {record.reason}" for record in load(Path(name) / folder).invalid_records]
            except ValueError as error:
                return [str(error)]

        (message,) = run_as_nobody(lambda: describe("photos"))
        assert message.startswith(
            f"{name}/photos: the folder cannot be read: Permission denied. Change its permissions"
        )
        assert run_as_nobody(lambda: describe("more")) == ["closed: the folder cannot be read: Permission denied"]
        (Path(name) / "more/closed").chmod(0o700)


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EMFILE])
def test_transient_errors_end_the_reading_of_a_folder(tmp_path: Path, monkeypatch, number: int) -> None:
    write(tmp_path, {"a.jpg": "a"})

    def fail(*args: object) -> None:
        raise OSError(number, os.strerror(number), str(tmp_path))

    monkeypatch.setattr(os, "scandir", fail)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        load(tmp_path)


def test_mixed_dataset_selects_among_images_without_a_row(tmp_path: Path) -> None:
    """A row of the captions file names its image, wherever it is; the settings choose among the others."""
    write(tmp_path / "photos", TREE)
    (tmp_path / "c.csv").write_text("image,caption\nthumbnails/i.jpg,a thumbnail\n.hidden.jpg,hidden\n")
    settings = {"annotations": tmp_path / "c.csv", "format": "folder", "exclude": ["thumbnails", "*/**"]}
    found = load(tmp_path / "photos", **settings)
    assert [image.id for image in found.images] == ["thumbnails/i.jpg", ".hidden.jpg", "B.JPEG", "a.jpg"]
    assert [len(texts) for texts in found.captions_by_image_id.values()] == [1, 1, 0, 0]
