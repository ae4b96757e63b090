"""Grid extractor: cells cover the image, and features equal the averages of a slow loop."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torchvision import models

from extractors.config import GridConfig
from extractors.regions.grid import GridExtractor, cell_boxes
from extractors.registry import build_region_extractor
from tests.helpers.image_bytes import picture
from tests.helpers.random_networks import calibrated, pictures


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ResNet-18 with random weights, including the classifier."""
    torch.manual_seed(2)
    model = calibrated(models.resnet18(num_classes=3), pictures(2, 128, 128))
    path = tmp_path_factory.mktemp("weights") / "resnet18.safetensors"
    save_file({k: v for k, v in model.state_dict().items() if v.is_floating_point()}, path)
    return path


def grid(path: Path, **settings) -> GridExtractor:
    settings = {"model": "resnet18", "weights": str(path), "min_size": 160, "max_size": 256, **settings}
    return build_region_extractor(GridConfig(**settings))


def test_grid_extractor_features_equal_a_slow_loop_over_the_map(weights: Path) -> None:
    found = grid(weights, max_grid_size=3, whole_image=True, full_precision=True)
    image = picture(1, 240, 320)
    regions = found([image])[0]
    model = models.resnet18(num_classes=3)
    model.load_state_dict(load_file(weights), strict=False)
    stages = torch.nn.Sequential(*list(model.eval().children())[:-2])
    with torch.inference_mode():
        x = found.preprocess(image).input
        assert x.shape == (3, 160, 213), "the short side is 160 and the aspect ratio is kept"
        c5 = stages(x[None])[0].numpy()  # (512, 5, 7)
    expected = [c5.mean((1, 2))]
    for row in range(3):
        for column in range(3):
            y, z = (slice(i * n // 3, -(-(i + 1) * n // 3)) for i, n in ((row, 5), (column, 7)))
            expected.append(c5[:, y, z].mean((1, 2)))
    assert regions.features.shape == (10, found.dim) == (10, 512)
    np.testing.assert_allclose(regions.features, expected, atol=2e-3, rtol=2e-3)
    np.testing.assert_array_equal(regions.boxes[0], [0, 0, 320, 240])
    assert set(regions.class_ids) == {-1}
    assert set(regions.scores) == {1.0}
    assert found.recipe["classes"] == []


@pytest.mark.parametrize(("rows", "columns", "width", "height"), [(7, 7, 640, 480), (3, 5, 101, 67), (1, 1, 3, 2)])
def test_cell_boxes_cover_every_pixel_once(rows: int, columns: int, width: int, height: int) -> None:
    """Every pixel center is in exactly one box, and no box extends beyond the image."""
    boxes = cell_boxes(rows, columns, width, height)
    x, y = np.arange(width)[None, :, None] + 0.5, np.arange(height)[:, None, None] + 0.5
    inside = (x >= boxes[:, 0]) & (x < boxes[:, 2]) & (y >= boxes[:, 1]) & (y < boxes[:, 3])
    assert (inside.sum(-1) == 1).all()
    assert boxes.min() == 0
    np.testing.assert_array_equal(boxes[:, 2:].max(0), [width, height])
    assert boxes.shape == (rows * columns, 4)


def test_grid_extractor_keeps_the_complete_map_and_few_cells_of_thin_images(weights: Path) -> None:
    assert grid(weights, max_grid_size=None)([picture(2, 240, 320)])[0].features.shape == (5 * 7, 512)
    thin = grid(weights, max_grid_size=4)([np.zeros((10, 400, 3), np.uint8)])[0]
    assert thin.boxes.shape == (4, 4), "one row of the map: 256 x 6 pixels"
    assert np.isfinite(thin.features).all()


def test_grid_extractor_in_half_precision_is_close_and_has_its_own_recipe(weights: Path) -> None:
    quick, exact = (grid(weights, full_precision=e) for e in (False, True))
    a, b = (found([picture(3, 240, 320)])[0].features.astype(float) for found in (quick, exact))
    cosine = (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)
    assert cosine.min() > 0.998
    assert quick.recipe != exact.recipe
    assert str(weights.parent) not in str(quick.recipe)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet81"}, "Unknown backbone 'resnet81': did you mean 'resnet18'"),
        ({"layer": "layer5"}, r"does not have the layer 'layer5'. Set `layer` to one of conv1, bn1"),
        ({"weights": "IMAGENET1K_V9"}, "no weights 'IMAGENET1K_V9'"),
        ({"model": "resnet34"}, "lack 'layer1.2.conv1.weight'"),
        ({"layer": "avgpool"}, r"'avgpool' of resnet18 returns the shape \(1, 512, 1, 1\), not"),
        ({"model": "vit_b_16", "layer": "encoder"}, "cannot be run up to 'encoder'"),
    ],
)
def test_grid_extractor_rejects_invalid_settings(weights: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grid(weights, **settings)
