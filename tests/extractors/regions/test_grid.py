"""Grid extractor: equal to timm's own features and transforms, and rows equal the averages of a slow loop."""

import importlib.util
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from timm.data import create_transform, resolve_model_data_config

from data.images import load_image
from extractors.config import GridConfig
from extractors.nn.backbone import load_backbone
from extractors.packaged import PHOTOS, find_package_file
from extractors.regions.grid import GridExtractor, cell_boxes
from extractors.regions.stream import extract_from_paths
from extractors.registry import build_region_extractor
from pipeline.search.encode import QueryEncoder
from tests.helpers.image_bytes import picture
from tests.helpers.random_networks import calibrated, pictures
from tests.reference.efficientnet_lite import lite2_maps

LAYERS = {
    "resnet18": ("layer3", "layer4"),
    "efficientnet_lite0": ("blocks.6", "bn2"),
    "convnext_atto": "stages.3",
    "mambaout_femto": ("stages.2", "stages.3"),
    "vit_small_patch14_reg4_dinov2": ("blocks.5", "norm"),
}
SIZES = {"vit_small_patch14_reg4_dinov2": 98}
photos = pytest.mark.skipif(importlib.util.find_spec(PHOTOS.package) is None, reason="the extra photos is missing")


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of files with random weights, with classifiers of three classes, by the name of the model."""
    folder = tmp_path_factory.mktemp("weights")
    for name in LAYERS:
        torch.manual_seed(5)
        sizes = {"img_size": SIZES[name]} if name in SIZES else {}
        model = calibrated(timm.create_model(name, num_classes=3, **sizes), pictures(2, 98, 98))
        save_file({k: v.contiguous() for k, v in model.state_dict().items()}, folder / f"{name}.safetensors")
    return folder


def make_config(folder: Path, model: str = "resnet18", **settings) -> GridConfig:
    defaults = {"weights": str(folder / f"{model}.safetensors"), "layer": LAYERS[model], "full_precision": True}
    return GridConfig(model=model, **{**defaults, "image_size": SIZES.get(model, 128), "grid_size": 3, **settings})


def grid(folder: Path, model: str = "resnet18", **settings) -> GridExtractor:
    return build_region_extractor(make_config(folder, model, **settings))


def timm_maps(config: GridConfig, image: np.ndarray, crop_mode: str) -> list[np.ndarray]:
    """Run timm's own transform and model, and return the layers as (d, h, w)."""
    sizes = {"img_size": config.image_size} if config.model in SIZES else {}
    model = timm.create_model(config.model, num_classes=3, checkpoint_path=config.weights, **sizes).eval()
    values = resolve_model_data_config(model) | {"input_size": (3, config.image_size, config.image_size)}
    if crop_mode == "squash":
        values |= {"crop_mode": "squash", "crop_pct": 1.0}
    outputs = {}
    for name in config.layer if isinstance(config.layer, tuple) else (config.layer,):
        model.get_submodule(name).register_forward_hook(lambda _, __, output, name=name: outputs.update({name: output}))
    with torch.inference_mode():
        model(create_transform(**values)(Image.fromarray(image))[None])
    maps = []
    for output in outputs.values():
        if config.model.startswith("vit"):  # one class token, four registers, 7 x 7 patches
            output = output[:, 5:].reshape(1, 7, 7, -1)
        maps.append(output[0].permute(2, 0, 1) if config.model.startswith(("vit", "mamba")) else output[0])
    return [features.numpy() for features in maps]


def slow_cells(features: np.ndarray, size: int) -> list[np.ndarray]:
    """Average a map (d, h, w) over the cells of a grid in a loop, row by row."""
    spans = [[slice(i * side // size, -(-(i + 1) * side // size)) for i in range(size)] for side in features.shape[1:]]
    return [features[:, y, x].mean((1, 2)) for y in spans[0] for x in spans[1]]


@pytest.mark.parametrize("fit", ["center crop", "squash"])
@pytest.mark.parametrize("model", LAYERS)
def test_backbone_maps_equal_those_of_timm(weights: Path, model: str, fit: str) -> None:
    image, config = picture(1, 150, 210), make_config(weights, model, fit=fit)
    backbone, info = load_backbone(config, Path(config.weights))
    with torch.inference_mode():
        maps = [x[0].numpy() for x in backbone(torch.from_numpy(info.fit.prepare(image))[None])]
    expected = timm_maps(config, image, "squash" if fit == "squash" else "center")
    assert [len(x) for x in expected] == list(info.channels)
    for x, y in zip(maps, expected, strict=True):
        assert y.std() > 0.01, "a map of zeros would show nothing"
        np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4)


def test_grid_extractor_rows_equal_a_slow_loop_over_the_maps(weights: Path) -> None:
    config = make_config(weights, fit="center crop", grid_size=(1, 3, 2), normalize=True, whole_image=True)
    image = picture(1, 150, 210)
    extractor = build_region_extractor(config)
    (regions,) = extractor([image])
    layers = timm_maps(config, image, "center")
    rows = [[features.mean((1, 2)), *(c for n in (1, 3, 2) for c in slow_cells(features, n))] for features in layers]
    expected = np.concatenate([x / np.linalg.norm(x, axis=1, keepdims=True) for x in map(np.stack, rows)], axis=1)
    assert regions.features.shape == (15, extractor.dim) == (15, 256 + 512)
    np.testing.assert_allclose(regions.features, expected, atol=1e-4, rtol=1e-3)
    assert set(regions.class_ids) == {-1}
    assert set(regions.scores) == {1.0}
    assert extractor.recipe["classes"] == []


@pytest.mark.parametrize(("height", "width"), [(150, 210), (210, 150), (128, 128)])
def test_boxes_of_a_center_crop_cover_what_the_network_saw(weights: Path, height: int, width: int) -> None:
    """A change outside the boxes does not change the features, and one inside does."""
    extractor = grid(weights, fit="center crop", grid_size=(1, 2))
    image = picture(2, height, width)
    (regions,) = extractor([image])
    left, top, right, bottom = regions.boxes[0]
    assert (right - left) == pytest.approx(bottom - top, rel=0.02)
    assert (right - left) == pytest.approx(0.95 * min(height, width), rel=0.02), "crop_pct of resnet18"
    assert (left + right) / 2 == pytest.approx(width / 2, abs=1)
    assert (top + bottom) / 2 == pytest.approx(height / 2, abs=1)
    np.testing.assert_allclose(regions.boxes[1], [left, top, (left + right) / 2, (top + bottom) / 2], rtol=1e-5)
    np.testing.assert_allclose(regions.boxes[-1], [(left + right) / 2, (top + bottom) / 2, right, bottom], rtol=1e-5)
    y, x = np.mgrid[:height, :width]
    margin = 3  # pixels that the filter of the resizing reaches
    outside = (x < left - margin) | (x > right + margin) | (y < top - margin) | (y > bottom + margin)
    assert outside.any() == (height != width)
    changed = np.where(outside[:, :, None], 255 - image, image)
    np.testing.assert_array_equal(extractor([changed])[0].features, regions.features)
    inside = (x > right - 9) & (x < right - 3) & (y > top) & (y < bottom)
    changed = np.where(inside[:, :, None], 255 - image, image)
    assert not np.array_equal(extractor([changed])[0].features, regions.features)


def test_short_side_keeps_the_aspect_ratio_up_to_a_limit(weights: Path) -> None:
    extractor = grid(weights, fit="short side", grid_size=2)
    for height, width, expected in [(150, 210, (128, 179)), (210, 150, (179, 128)), (40, 1000, (128, 512))]:
        image = np.resize(picture(3, 150, 210), (height, width, 3))
        assert extractor.preprocess(image).input.shape == (*expected, 3)
        (regions,) = extractor([image])
        assert regions.features.shape == (4, 768)
        np.testing.assert_array_equal(regions.boxes[-1], [width / 2, height / 2, width, height])
    extractor = grid(weights, "vit_small_patch14_reg4_dinov2", fit="short side", grid_size=2)
    assert extractor.preprocess(picture(3, 150, 210)).input.shape == (98, 140, 3), "whole patches"
    assert np.isfinite(extractor([picture(3, 150, 210)])[0].features).all()


@pytest.mark.parametrize("fit", ["squash", "short side", "center crop"])
def test_large_photo_is_reduced_while_decoded_and_equal_as_image_and_as_query(
    weights: Path, tmp_path: Path, fit: str
) -> None:
    """The same bits from a file and from its bytes; boxes in pixels of the file; rows close to those of all pixels."""
    extractor = grid(weights, fit=fit, grid_size=(1, 2))
    pixels = np.array(Image.fromarray(picture(5, 150, 200)).resize((1600, 1200), Image.Resampling.BICUBIC))
    file, query = tmp_path / "photo.jpg", GridQueryEncoder(extractor)
    Image.fromarray(pixels).save(file, quality=92)
    assert extractor.load(file).pixels.shape == (300, 400, 3), "more than twice the input of 128 pixels"
    (stored,) = extract_from_paths(extractor, [file], extractor.load)
    for photo in (file, file.read_bytes()):
        np.testing.assert_array_equal(query.embed_photo(photo), stored.features)
        np.testing.assert_array_equal(query.boxes, stored.boxes)
    (whole,) = extractor([load_image(file)])
    assert stored.size == whole.size == (1600, 1200)
    np.testing.assert_allclose(stored.boxes, whole.boxes, atol=8)
    a, b = stored.features.astype(float), whole.features.astype(float)
    assert ((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)).min() > 0.99


class GridQueryEncoder(QueryEncoder):
    """A query encoder without a model, whose vectors are the rows of the regions."""

    def __init__(self, extractor: GridExtractor) -> None:
        self._pool = SimpleNamespace(get_region_extractor=lambda name: extractor)
        self._origin = SimpleNamespace(regions="")

    def embed_regions(self, images):
        ((features, self.boxes, _, _),) = images
        return features


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


def test_recipe_names_what_determines_the_rows_and_no_path(weights: Path) -> None:
    recipes = [grid(weights, **settings).recipe for settings in ({}, {"fit": "center crop"}, {"normalize": True})]
    recipes += [grid(weights, **settings).recipe for settings in ({"layer": "layer4"}, {"grid_size": 2})]
    assert len({str(recipe) for recipe in recipes}) == len(recipes)
    assert grid(weights, layer=("layer4",), grid_size=(3,)).recipe == recipes[3], "one layer is a list of one"
    assert str(weights) not in str(recipes)
    assert recipes[0]["mean"] == pytest.approx([0.485, 0.456, 0.406])
    assert recipes[0]["image_size"] == 128


@photos
@pytest.mark.parametrize("side", [260, 384])
def test_weights_of_the_package_equal_its_network(side: int) -> None:
    """Equal to the network under the names of the package, with the padding and the colors of its training."""
    file = find_package_file(PHOTOS)
    config = GridConfig(
        model="tf_efficientnet_lite2", weights="photos", layer=("blocks.6", "bn2"), image_size=side, grid_size=(1, 2, 3)
    )
    backbone, info = load_backbone(config, file)
    pixels = torch.from_numpy(picture(4, side, side))[None]
    with torch.inference_mode():
        maps = backbone(pixels)
    expected = lite2_maps(torch.load(file, weights_only=True), pixels.permute(0, 3, 1, 2).float())
    assert info.channels == (352, 1280)
    for x, y in zip(maps, expected, strict=True):
        assert y.std() > 0.1
        np.testing.assert_allclose(x, y, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "resnet81"}, "Unknown backbone 'resnet81': did you mean 'resnet18"),
        ({"model": "resnet18.zzz"}, r"Unknown backbone 'resnet18.zzz': Invalid pretrained tag \(zzz\)"),
        ({"layer": "layer5"}, r"does not have the layer 'layer5': did you mean 'layer4'\? Its modules are conv1, bn1"),
        ({"layer": "layer4.7.conv1"}, "does not have the layer 'layer4.7.conv1': did you mean 'layer4.1.conv1'"),
        ({"layer": "global_pool"}, "The layer 'global_pool' is not used instead of a map"),
        ({"weights": "IMAGENET1K_V9"}, "Unknown weights 'IMAGENET1K_V9'. Set `regions.weights` to \"DEFAULT\""),
        ({"weights": "photos"}, "are those of tf_efficientnet_lite2, not of resnet18"),
        ({"model": "resnet34"}, "lack 'layer1.2.conv1.weight'"),
        ({"model": "vit_tiny_patch16_224", "layer": "norm"}, "of vit_tiny_patch16_224 (do not fit|lack 'cls_token')"),
        ({"grid_size": (2, 5)}, "grid_size 5 is above the 4 rows of the map of layer4 at 128 pixels"),
    ],
)
def test_grid_extractor_rejects_invalid_settings(weights: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_region_extractor(GridConfig(**{**make_config(weights, layer="layer4").model_dump(), **settings}))


def test_grid_extractor_names_a_missing_or_damaged_file(weights: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"gone\.pth does not exist"):
        grid(weights, weights=str(tmp_path / "gone.pth"))
    damaged = tmp_path / "half.safetensors"
    damaged.write_bytes((weights / "resnet18.safetensors").read_bytes()[:100_000])
    with pytest.raises(ValueError, match=r"half\.safetensors cannot be read"):
        grid(weights, weights=str(damaged))
