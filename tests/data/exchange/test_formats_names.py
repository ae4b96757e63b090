"""Image ids as paths, and templates of ids: no path leaves its folder, and no two ids become equal."""

import os

import pytest

from data.config import ImportConfig
from data.exchange.region_export import MARKER, export_regions
from data.exchange.region_import import import_regions
from data.formats.names import Template, safe_join
from data.store.store import Store
from tests.helpers.region_files import fill, same, some


@pytest.mark.parametrize("kind", ["milvlg", "tern"])
@pytest.mark.parametrize(
    "name", ["../x", "/x", "a/../../x", "a//b", "a/./b", ".", "..", "x" * 252, "ä" * 130, "a\\..\\x", "C:/x"]
)
def test_export_rejects_ids_that_leave_the_folder(name, kind, tmp_path):
    folder = fill(tmp_path / "a", {name: some(1)["7"]})
    with pytest.raises(ValueError, match="rename it with --id-template"):
        export_regions(folder, tmp_path / "out" / "in", kind)
    files = [p for p in tmp_path.rglob("*") if p.is_file() and "regions-" not in str(p)]
    assert [p.name for p in files] == [MARKER]


@pytest.mark.parametrize("kind", ["milvlg", "tern", "ruotianluo"])
def test_names_that_a_file_may_have_are_exported_and_imported(kind, tmp_path):
    content = {name: some(1, seed=i)["7"] for i, name in enumerate(["a:b.jpg", "x" * 251, "ä" * 125, "x:", "日:1"])}
    export_regions(fill(tmp_path / "a", content), tmp_path / "out", kind)
    result = import_regions(ImportConfig(sources=(tmp_path / "out",), sizes="boxes"), tmp_path / "s")
    assert sorted(Store(result.folder).ids) == sorted(content)
    assert not list((tmp_path / "out").rglob("*.tmp*"))


def test_one_id_that_is_no_file_name_stops_an_export_before_its_first_file(tmp_path):
    folder = fill(tmp_path / "a", {"good": some(1)["7"], "../x": some(1, seed=1)["7"]})
    with pytest.raises(ValueError, match=r"'\.\./x' is not a file name below"):
        export_regions(folder, tmp_path / "out", "milvlg", image_ids=["good", "../x"])
    assert [path.name for path in (tmp_path / "out").iterdir()] == [MARKER]


def test_ids_with_slashes_make_subfolders_and_links_are_rejected(tmp_path):
    content = {"train/a b.jpg": some(1)["7"], "train/c.d.jpg": some(1, seed=1)["7"]}
    folder = fill(tmp_path / "a", content)
    export_regions(folder, tmp_path / "out", "milvlg")
    assert (tmp_path / "out" / "train" / "c.d.jpg.npz").is_file()
    same(Store(import_regions(ImportConfig(sources=(tmp_path / "out",)), tmp_path / "s").folder), content, {"boxes"})
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / "train").symlink_to(tmp_path / "a")
    with pytest.raises(ValueError, match=r"leave .* through a link"):
        export_regions(folder, tmp_path / "linked", "milvlg", force=True)
    with pytest.raises(ValueError, match="not a file name below"):
        safe_join(tmp_path, "a\0", ".npz") if "\0" in os.fspath(tmp_path) else safe_join(tmp_path, "a/", ".npz")


@pytest.mark.parametrize(
    ("template", "name", "expected"),
    [
        ("{id}.jpg", "007", "007.jpg"),
        ("COCO_train2014_{id:012d}.jpg", "84002", "COCO_train2014_000000084002.jpg"),
        ("{number}", "COCO_train2014_000000084002.jpg", "84002"),
        ("{number:06}", "a1b22", "000022"),
        ("stem", "a.b/c.d.jpg", "a.b/c.d"),
        ("{stem}.png", "x.jpg", "x.png"),
        ("{id:d}", "x7", None),
        ("{number}", "abc", None),
        ("{id.__class__}", "a", None),
        ("{id!r}", "a", None),
        ("{id:999999999d}", "1", None),
        ("{0}", "a", None),
        ("{id", "a", None),
        ("a.jpg", "a", None),
        ("{id}\n", "a", None),
        ("{id}.jpg", "", None),
        ("x{split}", "", None),
    ],
)
def test_template_renames_ids_or_raises(template, name, expected):
    if expected is not None:
        assert Template(template)(name) == expected
        return
    with pytest.raises(ValueError, match=r"--id-template|is not an id"):
        Template(template)(name)


def test_export_rejects_a_template_that_gives_two_images_one_id(tmp_path):
    folder = fill(tmp_path, {"a.jpg": some(1)["7"], "a.png": some(1)["7"]})
    with pytest.raises(ValueError, match=r"gives both 'a\.jpg' and 'a\.png' the id 'a'"):
        export_regions(folder, tmp_path / "x.tsv", "lxmert-tsv", id_template="stem")
