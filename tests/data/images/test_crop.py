"""Regions of images, against crops that Pillow makes of the image as it is shown."""

import numpy as np
import pytest
from PIL import Image, ImageOps

from data.images import ReducedImage, check_box, crop_image, load_image_of_side, load_reduced_image

SIZE = (120, 80)


@pytest.fixture
def turned(tmp_path):
    """A JPEG of 120x80 pixels as it is shown, stored as 80x120 with the EXIF orientation 6."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(pixels).resize(SIZE[::-1]).save(tmp_path / "turned.jpg", exif=exif, quality=95)
    return tmp_path / "turned.jpg"


@pytest.mark.parametrize("box", [(0, 0, 120, 80), (100, 10, 120, 70), (0, 0, 4, 4), (116, 76, 120, 80)])
def test_crop_is_that_of_the_image_as_shown(turned, box):
    image = load_image_of_side(turned, None)
    assert image.size == SIZE
    expected = np.asarray(ImageOps.exif_transpose(Image.open(turned)).crop(box))
    crop = crop_image(image, box)
    np.testing.assert_array_equal(crop.pixels, expected)
    assert crop.size == expected.shape[1::-1]
    assert crop.pixels.base is None, "the image is not kept in memory"


def test_box_of_a_reduced_image_is_in_pixels_of_the_original(tmp_path):
    pixels = np.zeros((400, 800, 3), np.uint8)
    pixels[104:304, 600:800] = 255
    Image.fromarray(pixels).save(tmp_path / "large.png")
    image = load_reduced_image(tmp_path / "large.png", (100, 100))
    assert image.pixels.shape == (50, 100, 3)
    crop = crop_image(image, (600, 104, 800, 304))
    assert (crop.pixels.shape, crop.size) == ((25, 25, 3), (200, 200))
    assert crop.pixels[2:-2, 2:-2].min() == 255, "resizing blurs the border only"
    small = crop_image(ReducedImage(image.pixels, (800, 400)), (796, 396, 800, 400))
    assert small.pixels.shape == (1, 1, 3)


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ((-1, 0, 10, 10), r"The box -1,0,10,10 is not a region of an image of 120x80 pixels"),
        ((0, 0, 121, 80), "not a region of an image of 120x80"),
        ((0, 0, 80, 120), "not a region of an image of 120x80"),
        ((10, 10, 10, 20), "at least 4 above"),
        ((20, 20, 10, 10), "not a region"),
        ((0, 0, 3, 80), "not a region"),
        ((0, 0, 120), "four finite numbers"),
        ((0, 0, float("nan"), 20), "four finite numbers"),
        ((0, 0, float("inf"), 20), "four finite numbers"),
        ((-1e300, 0, 1e300, 20), "not a region"),
    ],
)
def test_box_that_is_no_region_of_the_image_is_rejected(box, message):
    with pytest.raises(ValueError, match=message):
        check_box(box, SIZE)


def test_box_is_rounded_and_never_too_thin():
    assert check_box((-0.4, 0.2, 119.6, 80.3), SIZE) == (0, 0, 120, 80)
    with pytest.raises(ValueError, match=r"has 250x4 pixels, which is thinner than 1:50"):
        check_box((0, 0, 250, 4), (300, 100))
