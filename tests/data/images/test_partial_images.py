"""Files that hold only a part of a picture: data that end early before a proper end, reduced pages of a TIFF."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data.config import ImportConfig
from data.exchange.photo_sizes import find_image_size
from data.formats.base import SourceRecord
from data.images.decode import load_image, read_image_size
from tests.helpers.image_bytes import FINE, RGB, chunk, laced, picture, png, saved

END = b"\xff\xd9"
SMALL = RGB[:20, :30]
JPEGS = {
    "baseline": {},
    "gray": {"pixels": RGB[..., 1]},
    "subsampled": {"subsampling": 2},
    "restart markers": {"restart_marker_blocks": 4},
    "optimized": {"optimize": True},
    "progressive": {"progressive": True},
    "progressive, restart markers": {"progressive": True, "restart_marker_rows": 1},
}


def load(path: Path, content: bytes) -> np.ndarray:
    path.write_bytes(content)
    return load_image(path)


@pytest.mark.parametrize("kind", JPEGS)
def test_jpeg_cut_before_an_end_marker_gives_correct_pixels_or_an_error(tmp_path: Path, kind: str) -> None:
    options = {"quality": 85} | JPEGS[kind]
    whole = saved("JPEG", options.pop("pixels", RGB), **options)
    expected, num_errors, path = load(tmp_path / "a.jpg", whole), 0, tmp_path / "a.jpg"
    positions = range(whole.index(b"\xff\xda") + 20, len(whole) - 2, max(1, len(whole) // 150))
    for position in positions:
        path.write_bytes(whole[:position] + END)
        try:
            pixels = load_image(path)
        except ValueError:
            num_errors += 1
        else:
            np.testing.assert_array_equal(pixels, expected)
    assert num_errors > 0.9 * len(positions)


@pytest.mark.parametrize("kind", JPEGS)
@pytest.mark.parametrize("side", [0, 1])
def test_jpeg_that_lacks_its_last_bytes_gives_correct_pixels_or_an_error(tmp_path: Path, kind: str, side: int) -> None:
    """Every number of missing bytes up to 40, of a picture of whole blocks and of one with a part of a block."""
    options = {"quality": 85} | JPEGS[kind]
    pixels = options.pop("pixels", RGB)[: 64 + side, : 96 + side]
    whole, path = saved("JPEG", pixels, **options), tmp_path / "a.jpg"
    expected, num_errors = load(path, whole), 0
    for num_missing in range(1, 41):
        path.write_bytes(whole[: -2 - num_missing] + END)
        try:
            found = load_image(path)
        except ValueError:
            num_errors += 1
        else:
            np.testing.assert_array_equal(found, expected)
    assert num_errors > 30


def test_dark_and_gray_jpegs_are_complete(tmp_path: Path) -> None:
    """A last block of the color of missing data, or of its brightness, is decided by the slower check."""
    for level in (0, 127, 128, 129, 255):
        for kind in JPEGS:
            pixels = np.full((40, 56, 3), level, np.uint8)
            options = {key: value for key, value in JPEGS[kind].items() if key != "pixels"}
            image = load(tmp_path / "a.jpg", saved("JPEG", pixels, quality=85, **options))
            assert abs(image.astype(int) - level).max() <= 1


@pytest.mark.parametrize("kind", ["baseline", "progressive"])
@pytest.mark.parametrize("share", [0.4, 0.5, 0.6])
def test_jpeg_whose_end_is_zeros_is_an_error(tmp_path: Path, kind: str, share: float) -> None:
    pixels = np.kron(np.random.default_rng(3).integers(0, 255, (19, 25, 3)).astype("u1"), np.ones((16, 16, 1), "u1"))
    whole = saved("JPEG", pixels, quality=85, **JPEGS[kind])
    position = int(len(whole) * share)
    with pytest.raises(ValueError, match="ends too early"):
        load(tmp_path / "a.jpg", whole[:position] + bytes(len(whole) - position) + END)


def test_complete_jpeg_with_odd_bytes_is_read(tmp_path: Path) -> None:
    whole = saved("JPEG", **FINE)
    expected = load(tmp_path / "a.jpg", whole)
    restarted = saved("JPEG", restart_marker_blocks=4, **FINE)
    first = restarted.index(b"\xff\xd1")
    for content in (
        whole + b"trailing bytes" * 9,
        whole + whole[: len(whole) // 2] + END,
        whole[:-2] + bytes(40) + END,
    ):
        np.testing.assert_array_equal(load(tmp_path / "b.jpg", content), expected)
    out_of_order = restarted[:first] + b"\xff\xd2" + restarted[first + 2 :]
    assert load(tmp_path / "b.jpg", out_of_order).shape == expected.shape, "libjpeg resynchronizes: no data are missing"


@pytest.mark.parametrize("form", ["plain", "interlaced", "palette of one bit"])
def test_png_with_too_few_rows_is_an_error(tmp_path: Path, form: str) -> None:
    rows = [row.tobytes() for row in SMALL]
    content = {"plain": png(rows, (30, 20), 8, 2), "interlaced": laced(), "palette of one bit": png(
        [b"\xaa" * 4] * 20, (30, 20), 1, 3, chunk(b"PLTE", bytes(3) + b"\xff" * 3)
    )}[form]  # fmt: skip
    assert load(tmp_path / "a.png", content).shape[2] == 3
    start = content.index(b"IDAT")
    (length,) = struct.unpack(">I", content[start - 4 : start])
    data = zlib.decompress(content[start + 4 : start + 4 + length])
    for share in (0.99, 0.5, 0.1):
        part = chunk(b"IDAT", zlib.compress(data[: int(len(data) * share)]))
        with pytest.raises(ValueError, match="ends too early"):
            load(tmp_path / "b.png", content[: start - 4] + part + content[start + 8 + length :])
    stream = content[start + 4 : start + 4 + length]
    split = b"".join(chunk(b"IDAT", stream[k : k + 7]) for k in range(0, length, 7))
    whole = content[: start - 4] + split + content[start + 8 + length :]
    np.testing.assert_array_equal(load(tmp_path / "c.png", whole), load_image(tmp_path / "a.png"))


def tiff(pages: list[tuple[np.ndarray, dict[int, int]]], num_sub: int = 0, is_big: bool = False) -> bytes:
    """Return a TIFF of uncompressed pages (pixels, more tags); the last `num_sub` are SubIFDs of the first."""
    out = bytearray(b"II+\0\x08\0\0\0" + bytes(8) if is_big else b"II*\0" + bytes(4))
    offset, count, entry = ("Q", "Q", "<HHQQ") if is_big else ("I", "H", "<HHII")
    strips, links, directories = [], [], []
    for pixels, _ in pages:
        strips.append(len(out))
        out += pixels.tobytes() + bytes(-pixels.nbytes % 8)
    for number in reversed(range(len(pages))):
        (pixels, more), bits = pages[number], len(out)
        out += struct.pack("<4H", 8, 8, 8, 0)
        height, width = pixels.shape[:2]
        bits = bits if not is_big else 8 | 8 << 16 | 8 << 32  # three short values fit into eight bytes
        tags = {256: width, 257: height, 259: 1, 262: 2, 273: strips[number], 277: 3, 278: height, 279: pixels.nbytes}
        tags |= {258: bits} | more
        if number == 0 and num_sub:
            tags[330] = directories[len(pages) - 1 - (len(pages) - num_sub)]
        directories.append(len(out))
        out += struct.pack(f"<{count}", len(tags))
        for tag, value in sorted(tags.items()):
            out += struct.pack(entry, tag, 3 if tag == 258 else 4, 3 if tag == 258 else 1, value)
        links.append(len(out))
        out += struct.pack(f"<{offset}", 0)
    directories, links = directories[::-1], links[::-1]
    chain = len(pages) - num_sub
    struct.pack_into(f"<{offset}", out, 8 if is_big else 4, directories[0])
    for number in range(1, chain):
        struct.pack_into(f"<{offset}", out, links[number - 1], directories[number])
    return bytes(out)


LARGE, REDUCED, MASK, OTHER = picture(4, 160, 240), picture(5, 50, 60), picture(6, 160, 240), picture(7, 80, 80)
RAW = {254: 0, 262: 32803}  # a color filter array, as in a DNG


@pytest.mark.parametrize("is_big", [False, True])
@pytest.mark.parametrize(
    ("pages", "num_sub", "expected"),
    [
        ([(REDUCED, {254: 1}), (LARGE, {254: 0})], 0, LARGE),
        ([(REDUCED, {254: 1}), (LARGE, {})], 0, LARGE),
        ([(REDUCED, {255: 2}), (LARGE, {255: 1})], 0, LARGE),
        ([(MASK, {254: 4}), (LARGE, {})], 0, LARGE),
        ([(REDUCED, {254: 1}), (OTHER, {254: 1}), (LARGE, {254: 2})], 0, LARGE),
        ([(LARGE, {254: 0}), (REDUCED, {254: 1})], 0, LARGE),
        ([(LARGE, {254: 2}), (OTHER, {254: 2})], 0, LARGE),
        ([(LARGE, {}), (OTHER, {})], 0, LARGE),
        ([(REDUCED, {254: 1})], 0, REDUCED),
        ([(REDUCED, {254: 1}), (LARGE, {254: 0})], 1, LARGE),
        ([(LARGE, {}), (REDUCED, {254: 1})], 1, LARGE),
        ([(REDUCED, {254: 1}), (LARGE, RAW)], 1, None),
    ],
)
def test_tiff_gives_its_first_full_page(tmp_path: Path, pages, num_sub, expected, is_big) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(tiff(pages, num_sub, is_big))
    if expected is None:
        with pytest.raises(ValueError, match="first page is a reduced copy, and its full page cannot be read"):
            load_image(path)
        return
    np.testing.assert_array_equal(load_image(path), expected)
    assert read_image_size(path) == expected.shape[1::-1]
    config = ImportConfig(sources=(path,), images=tmp_path)
    assert find_image_size(config, "a", SourceRecord("a", {}, "")) == expected.shape[1::-1]


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_tiff_with_half_a_jpeg_in_a_strip_is_an_error(tmp_path: Path, share: float) -> None:
    whole = saved("TIFF", LARGE, compression="jpeg")
    assert load(tmp_path / "a.tif", whole).shape == LARGE.shape
    with Image.open(tmp_path / "a.tif") as image:
        (offset, *_), (count, *_) = image.tag_v2[273], image.tag_v2[279]
    position = offset + int(count * share)
    cut = whole[:position] + END + bytes(offset + count - position - 2) + whole[offset + count :]
    with pytest.raises(ValueError, match="ends too early"):
        load(tmp_path / "a.tif", cut)
