"""Region features of one .npz file: rows by image, normalized arrays, and invalid files."""

from pathlib import Path

import numpy as np
import pytest

from data.config import ImportConfig, RegionFileConfig
from data.exchange.region_file import RegionFile
from data.exchange.region_import import import_regions
from data.formats.flat_rows import check_shapes


def arrays() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    return {
        "filename": np.array(["b.jpg", "a.jpg", "none.jpg"]),
        "offset": np.array([0, 2, 5, 5]),
        "size": np.array([[640, 480], [500, 375], [1, 1]]),
        "boxes": rng.random((5, 4)).astype("float32"),
        "score": np.array([np.nan, 0.5, np.nan, 0.2, 0.1], "float32"),
        "cls": np.array([-1, 3, -1, 4, 5], "int16"),
        "small": rng.normal(size=(5, 3)).astype("float16"),
        "large": 100 * rng.normal(size=(5, 2)).astype("float16"),
    }


def opened(folder: Path, change: dict | None = None, **settings) -> RegionFile:
    path = folder / "regions.npz"
    np.savez(path, **{k: v for k, v in {**arrays(), **(change or {})}.items() if v is not None})
    return RegionFile(RegionFileConfig(path=path, feature_arrays=("small", "large"), **settings))


def test_region_file_gives_the_rows_of_an_image(tmp_path):
    raw, (found, missing) = arrays(), opened(tmp_path).rows(["a.jpg", "nobody.jpg"])
    for row in range(3):
        small, large = raw["small"][2 + row].astype(float), raw["large"][2 + row].astype(float)
        expected = [*(small / np.sqrt((small**2).sum())), *(large / np.sqrt((large**2).sum()))]
        np.testing.assert_allclose(found["features"][row], expected, rtol=1e-5)
    np.testing.assert_array_equal(found["boxes"], raw["boxes"][2:5])
    assert found["scores"].tolist() == pytest.approx([1.0, 0.2, 0.1]), "the whole-image region has no score in the file"
    assert (found["class_ids"].tolist(), found["size"].tolist()) == ([-1, 4, 5], [500, 375])
    assert missing == f"it is not in {tmp_path / 'regions.npz'}"
    plain = next(opened(tmp_path, normalize=False).rows(["b.jpg"]))
    np.testing.assert_array_equal(plain["features"][:, :3], raw["small"][:2])


def test_region_file_warns_of_values_that_it_cannot_mean(tmp_path, caplog):
    fractions = np.tile(np.float32([0.1, 0.2, 0.5, 1.0]), (5, 1))
    list(opened(tmp_path, {"boxes": 100 * fractions}).rows(["a.jpg", "b.jpg"]))
    assert not caplog.messages
    file = opened(tmp_path, {"boxes": fractions})
    list(file.rows(["a.jpg", "b.jpg"]))
    list(file.rows(["a.jpg"]))
    (message,) = caplog.messages
    assert message.startswith(f"{file.config.path} entry 1: boxes lie between 0 and 1")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"boxes": np.ones((4, 4))}, r"boxes is \(4, 4\), not \(5, 4\)"),
        ({"large": np.ones((6, 2))}, r"large is \(6, 2\)"),
        ({"offset": np.array([0, 3, 2, 5])}, "offset does not increase"),
        ({"score": None}, "score"),
        ({"filename": np.array([{"a": 1}], dtype=object)}, "filename.*pickle.*not supported"),
    ],
)
def test_region_file_names_arrays_that_do_not_fit(tmp_path, change, says):
    with pytest.raises(ValueError, match=says):
        list(opened(tmp_path, change).rows(["a.jpg"]))


def test_region_file_raises_for_broken_and_missing_files(tmp_path):
    file = opened(tmp_path)
    for content in (file.config.path.read_bytes()[:200], b"no archive", b""):
        file.config.path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be read as a file of regions"):
            list(RegionFile(file.config).rows(["a.jpg"]))
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "one.npy").rename(file.config.path)
    with pytest.raises(ValueError, match="cannot be read as a file of regions"):
        list(RegionFile(file.config).rows(["a.jpg"]))
    file.config.path.unlink()
    with pytest.raises(FileNotFoundError, match=r"set `regions_file\.path`"):
        RegionFile(file.config)


@pytest.mark.parametrize("content", [b"", b"img_id\timg_h", b"PK\3\4 cut"])
def test_file_that_is_no_npz_is_named_with_what_to_do(content, tmp_path):
    (tmp_path / "x.npz").write_bytes(content)
    config = ImportConfig(sources=(tmp_path / "x.npz",), format="flat-npz")
    with pytest.raises(ValueError, match=r"x\.npz cannot be read: it is not an \.npz file.*write or copy it again"):
        import_regions(config, tmp_path / "out")


def test_offsets_that_are_no_whole_numbers_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"x: offset is float64 \(2,\); it must be whole numbers"):
        check_shapes(tmp_path / "x", np.array([0.0, 1.5]), {"filename": (1,)}, ())
