"""Images of every mode, rotated by EXIF, broken, or too large."""

import io
import resource
import struct
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images.decode import load_image, load_image_of_side, load_reduced_image
from data.images.limits import DecodeLimits
from tests.helpers.image_bytes import RGB, picture, png, saved


def written(path: Path, image: Image.Image, **options) -> np.ndarray:
    image.save(path, **options)
    return load_image(path)


def test_load_image_converts_every_mode_to_upright_rgb(tmp_path: Path) -> None:
    pixels = picture(2, 90, 120)
    image = Image.fromarray(pixels)
    np.testing.assert_array_equal(written(tmp_path / "rgb.png", image), pixels)

    gray = np.arange(0, 65536, 6, dtype=np.uint16)[:10900].reshape(100, 109)
    deep = written(tmp_path / "deep.png", Image.fromarray(gray))
    np.testing.assert_allclose(deep[..., 1], gray / 257, atol=1)

    clear = image.convert("RGBA")
    clear.putalpha(Image.fromarray(np.full((90, 120), 51, np.uint8)))  # a fifth of the picture on white
    np.testing.assert_allclose(written(tmp_path / "clear.png", clear), 204 + pixels / 5, atol=1.5)

    palette = image.quantize(16)
    np.testing.assert_array_equal(written(tmp_path / "palette.png", palette), np.array(palette.convert("RGB")))
    assert np.abs(written(tmp_path / "cmyk.jpg", image.convert("CMYK"), quality=95).astype(int) - pixels).mean() < 8


@pytest.mark.parametrize("orientation", range(1, 9))
def test_load_image_applies_the_exif_orientation(tmp_path: Path, orientation: int) -> None:
    image = Image.fromarray(picture(3, 60, 100))
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = written(tmp_path / "turned.png", image, exif=exif)
    # Orientation n means: the file is the upright picture changed by the inverse of this (EXIF 2.3, table 4.6.4.A).
    way = {2: image.transpose(0), 3: image.rotate(180), 4: image.transpose(1), 5: image.transpose(5)}
    way |= {1: image, 6: image.rotate(270, expand=True), 7: ImageOps.mirror(ImageOps.flip(image)).transpose(5)}
    way[8] = image.rotate(90, expand=True)
    np.testing.assert_array_equal(turned, np.array(way[orientation]))


def test_damaged_exif_raises_no_other_error_than_value_error(tmp_path: Path) -> None:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x8827] = 6, "a camera", 400
    Image.fromarray(picture(3, 60, 100)).save(buffer, "JPEG", exif=exif)
    good, path = buffer.getvalue(), tmp_path / "odd.jpg"
    for position in range(20, 110):
        for value in (0, 7, 255):
            path.write_bytes(good[:position] + bytes([value]) + good[position + 1 :])
            with suppress(ValueError):  # any other error would end the run
                assert load_image(path).shape in ((100, 60, 3), (60, 100, 3))


def jpeg(width: int = 64) -> bytes:
    file = io.BytesIO()
    Image.fromarray(picture(1, 64, width)).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (jpeg()[:700], "truncated"),
        (b"", "the file is empty"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "cannot be read as any of JPEG, PNG"),
        (jpeg(width=200), "200x64 is more than 9000 pixels"),
    ],
)
def test_load_image_names_file_and_reason_of_invalid_images(tmp_path: Path, content: bytes, says: str) -> None:
    path = tmp_path / "bad.jpg"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"bad\.jpg: .*{says}"):
        load_image(path, max_pixels=9000)


def test_load_image_raises_file_not_found_for_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        load_image(tmp_path / "none.jpg")


def test_load_image_rejects_extreme_aspect_ratios(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"strip\.png: 900x2 is thinner than 1:50"):
        written(tmp_path / "strip.png", Image.new("RGB", (900, 2)))


FORMS = {form: {} for form in ("JPEG", "PNG", "GIF", "BMP", "PPM")}


FORMS |= {"TIFF": {"compression": "tiff_lzw"}, "WEBP": {"lossless": True}, "AVIF": {"speed": 10}}


@pytest.mark.parametrize("form", FORMS)
def test_truncated_file_gives_correct_pixels_or_an_error(tmp_path: Path, form: str) -> None:
    whole, path = saved(form, RGB[:24, :30], **FORMS[form]), tmp_path / "cut.jpg"
    path.write_bytes(whole)
    expected = load_image(path)
    for end in range(0, len(whole), max(1, len(whole) // 400)):
        path.write_bytes(whole[:end])
        try:
            np.testing.assert_array_equal(load_image(path), expected)
        except ValueError:
            continue


def test_png_with_a_changed_byte_gives_correct_pixels_or_an_error(tmp_path: Path) -> None:
    pixels, path = RGB[:24, :30], tmp_path / "odd.png"
    whole = png([row.tobytes() for row in pixels], (30, 24), 8, 2)
    for position in range(len(whole)):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x10]) + whole[position + 1 :])
        try:
            np.testing.assert_array_equal(load_image(path), pixels)
        except ValueError:
            continue


def test_load_image_does_not_read_oversized_files(tmp_path: Path) -> None:
    path = tmp_path / "endless.jpg"
    with open(path, "wb") as file:
        file.write(saved("JPEG"))
        file.truncate(600 << 20)  # of holes
    with pytest.raises(ValueError, match=r"endless\.jpg: its 629,145,600 bytes are more"):
        load_image(path)


def test_broken_exif_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(saved("JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    assert load_image(tmp_path / "a.jpg").shape == RGB.shape


@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF", "WEBP", "AVIF"])
@pytest.mark.parametrize("orientation", [1, 3, 6])
def test_reduced_image_fits_its_box_and_shows_the_same(tmp_path: Path, form: str, orientation: int) -> None:
    small = np.random.default_rng(0).integers(0, 255, (15, 20, 3), dtype=np.uint8)
    image = Image.fromarray(small).resize((1600, 1200), Image.Resampling.BILINEAR)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = tmp_path / "image"
    image.save(path, form, exif=exif, **({"speed": 10} if form == "AVIF" else {}))
    full, reduced = load_image(path), load_reduced_image(path, (200, 160))
    height, width = full.shape[:2]
    assert reduced.size == (width, height)
    assert reduced.pixels.shape == ((160, 120, 3) if orientation == 6 else (150, 200, 3))
    expected = np.asarray(Image.fromarray(full).resize(reduced.pixels.shape[1::-1], Image.Resampling.BOX))
    assert np.abs(expected.astype(int) - reduced.pixels).mean() < 3
    content = path.read_bytes()
    assert np.array_equal(load_reduced_image(content, (200, 160)).pixels, reduced.pixels)
    for same in (load_reduced_image(path, (1600, 1600)), load_reduced_image(path, (9, 9), min_pixels=1600 * 1200)):
        assert np.array_equal(same.pixels, full), "an image that is small enough is not changed"


@pytest.mark.parametrize(
    ("size", "min_side", "expected"),
    [
        ((400, 300), None, (400, 300)),
        ((400, 300), 151, (400, 300)),
        ((400, 300), 150, (200, 150)),
        ((400, 300), 76, (200, 150)),
        ((400, 300), 75, (100, 75)),
        ((300, 400), 38, (75, 100)),
        ((400, 300), 9, (50, 38)),
        ((401, 303), 75, (101, 76)),
        ((300, 200), 768, (300, 200)),
    ],
)
@pytest.mark.parametrize("orientation", [1, 6])
def test_image_of_side_keeps_both_sides_at_least(size, min_side, expected, orientation) -> None:
    small = Image.fromarray(np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8))
    image = small.resize(size, Image.Resampling.BILINEAR)
    exif = image.getexif()
    exif[0x0112] = orientation
    content = saved("JPEG", image, exif=exif, quality=90)
    found = load_image_of_side(content, min_side)
    width, height = expected if orientation == 1 else expected[::-1]
    assert found.pixels.shape == (height, width, 3)
    assert found.size == (size if orientation == 1 else size[::-1])
    whole = load_image_of_side(content, None).pixels
    shrunk = np.asarray(Image.fromarray(whole).resize((width, height), Image.Resampling.BOX))
    assert np.abs(shrunk.astype(int) - found.pixels).mean() < 4
    if min_side is None or min(size) < 2 * min_side:
        np.testing.assert_array_equal(found.pixels, whole)
    png = load_image_of_side(saved("PNG", image), min_side)
    assert png.pixels.shape[1::-1] == size, "only a JPEG can be reduced while it is decoded"


def test_reduced_jpeg_of_64_megapixels_needs_no_memory_for_all_pixels() -> None:
    buffer = io.BytesIO()
    Image.new("L", (7990, 7990), 128).save(buffer, "JPEG", quality=20)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    reduced = load_reduced_image(buffer.getvalue(), (1600, 1600))
    assert (reduced.pixels.shape, reduced.size) == ((1600, 1600, 3), (7990, 7990))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KiB; all pixels are 187 MiB as RGB


@pytest.mark.parametrize("is_sequence", [False, True])
def test_avif_whose_frame_is_larger_than_its_header_is_rejected_before_it_is_decoded(is_sequence: bool) -> None:
    """libavif would decode the frame, and scale it to the size of the header."""
    more = {"save_all": True, "append_images": [Image.new("RGB", (640, 480))]} if is_sequence else {}
    whole = saved("AVIF", Image.new("RGB", (640, 480)), speed=10, **more)
    limits = DecodeLimits(max_full_pixels=100_000)
    load_image_of_side(whole, None, DecodeLimits(max_full_pixels=640 * 480))
    small = whole.replace(struct.pack(">II", 640, 480), struct.pack(">II", 64, 48))
    small = small.replace(struct.pack(">HH", 640, 480), struct.pack(">HH", 64, 48))  # of the sample entry of a track
    small = small.replace(struct.pack(">II", 640 << 16, 480 << 16), struct.pack(">II", 64 << 16, 48 << 16))
    assert load_image_of_side(small, None).pixels.shape == (48, 64, 3), "Pillow reads it"
    with pytest.raises(ValueError, match="640x480 of a frame is more than 100000 pixels"):
        load_image_of_side(small, None, limits)


@pytest.mark.parametrize(
    ("form", "limits", "says"),
    [
        ("JPEG", DecodeLimits(max_pixels=99), "more than 99 pixels"),
        ("PNG", DecodeLimits(max_full_pixels=99), "more than 99 pixels"),
        ("JPEG", DecodeLimits(max_full_pixels=99), ""),
        ("PNG", DecodeLimits(max_scanned_pixels=99), ""),
        ("JPEG", DecodeLimits(max_scanned_pixels=300), "scans are more than 3"),
    ],
)
def test_photo_beyond_a_limit_is_rejected_before_it_is_decoded(form: str, limits: DecodeLimits, says: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (10, 10)).save(buffer, form, progressive=True)
    if says:
        with pytest.raises(ValueError, match=f"cannot use the photo: .*{says}"):
            load_reduced_image(buffer.getvalue(), (5, 5), limits)
    else:
        load_reduced_image(buffer.getvalue(), (5, 5), limits)
