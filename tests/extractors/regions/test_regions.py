"""Torchvision extractor: selection, batches, whole-image region, agreement with torchvision and a slow loop."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from extractors.config import TorchvisionConfig
from extractors.regions.base import WHOLE_IMAGE
from extractors.regions.demo_network import build_demo_detector
from extractors.regions.detectors import build_detector
from extractors.regions.faster_rcnn import TorchvisionExtractor
from extractors.regions.selection import select_boxes
from tests.helpers.image_bytes import picture


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of the small detector, with the class names in the header."""
    path = tmp_path_factory.mktemp("weights") / "small.safetensors"
    torch.manual_seed(1)
    state = {k: v for k, v in build_demo_detector(5).state_dict().items() if v.is_floating_point()}
    save_file(state, path, {"classes": json.dumps(["background", "dog", "cat", "tree", "lake"])})
    return path


def extractor(weights: Path, **settings) -> TorchvisionExtractor:
    settings = {"model": "demo", "weights": str(weights), "full_precision": True, **settings}
    return TorchvisionExtractor(TorchvisionConfig(**settings))


def test_torchvision_extractor_returns_regions_of_an_image(weights: Path) -> None:
    found = extractor(weights, max_regions=10)
    regions = found([picture(0, 250, 500)])[0]
    assert regions.attr_ids.tolist() == [-1] * 11
    assert found.classes == ("background", "dog", "cat", "tree", "lake")
    assert regions.features.shape == (11, found.dim)
    assert regions.features.dtype == np.float16
    assert regions.size == (500, 250)
    np.testing.assert_array_equal(regions.boxes[0], [0, 0, 500, 250])
    assert regions.class_ids[0] == WHOLE_IMAGE
    assert set(regions.class_ids[1:]) <= {1, 2, 3, 4}
    assert (np.diff(regions.scores) <= 0).all()
    assert (regions.boxes[:, :2] >= 0).all()
    assert (regions.boxes[:, 2:] <= [500, 250]).all()
    assert (regions.boxes[:, 2:] > 300).any(), "boxes are in pixels of the image, not of the network's input"


def test_torchvision_extractor_agrees_with_detections_of_torchvision(weights: Path) -> None:
    """The best box that roi_heads of torchvision predict for a proposal is one of the regions, with the same score."""
    ours = extractor(weights, max_regions=200, nms_iou=1.0, whole_image=False)
    image = picture(4, 300, 400)
    regions = ours([image])[0]
    ours._detector.roi_heads.score_thresh, ours._detector.roi_heads.detections_per_img = 0.0, 2000
    ours._detector.roi_heads.nms_thresh = 1.0
    with torch.inference_mode():
        theirs = ours._detector([torch.from_numpy(image).permute(2, 0, 1).float() / 255])[0]
    best = np.column_stack([theirs["boxes"], theirs["scores"], theirs["labels"]])
    mine = np.column_stack([regions.boxes, regions.scores, regions.class_ids])
    for row in mine:
        assert np.abs(best - row).max(axis=1).min() < 1e-2
    assert mine[0, 4] == pytest.approx(best[:, 4].max(), abs=1e-5)


def test_torchvision_extractor_region_does_not_depend_on_its_batch(weights: Path) -> None:
    images = [picture(0, 240, 320), picture(1, 320, 240), picture(2, 240, 320), picture(3, 400, 500)]
    found = extractor(weights, max_regions=12)
    same = [picture(seed, 240, 320) for seed in range(3)]
    pairs = [*zip([found([image])[0] for image in images], found(images), strict=True)]
    with torch.inference_mode():
        pairs += zip(found(same), found.extract([found.preprocess(i) for i in same]), strict=True)  # as a GPU would
    for alone, together in pairs:
        np.testing.assert_array_equal(alone.class_ids, together.class_ids)
        np.testing.assert_allclose(alone.boxes, together.boxes, atol=0.05)
        np.testing.assert_allclose(alone.features, together.features, atol=2e-3)


def test_whole_image_region_does_not_change_other_regions(weights: Path) -> None:
    image = picture(5, 300, 400)
    with_it, without = (extractor(weights, whole_image=whole_image)([image])[0] for whole_image in (True, False))
    np.testing.assert_array_equal(with_it.boxes[1:], without.boxes)
    np.testing.assert_allclose(with_it.features[1:], without.features, atol=2e-3)


@pytest.mark.parametrize("shape", [(1, 1), (6, 300), (300, 6)])
def test_torchvision_extractor_returns_a_region_of_tiny_and_thin_images(weights: Path, shape: tuple[int, int]) -> None:
    regions = extractor(weights)([np.zeros((*shape, 3), np.uint8)])[0]
    assert len(regions.features) >= 1
    assert np.isfinite(regions.features).all()


@pytest.mark.parametrize("exact", [True, False])
def test_thin_image_does_not_change_later_images(weights: Path, exact: bool) -> None:
    """RoIAlign of torchvision computes its strides from the first image, and wrong ones from a thin image."""
    image, found = picture(8, 240, 320), extractor(weights, full_precision=exact)
    found([np.zeros((8, 400, 3), np.uint8)])
    after, alone = found([image])[0], extractor(weights, full_precision=exact)([image])[0]
    np.testing.assert_array_equal(after.features, alone.features)
    np.testing.assert_array_equal(after.boxes, alone.boxes)


def test_feature_layer_changes_only_the_features(weights: Path) -> None:
    """`pooled` is the mean of RoIAlign of torchvision for the proposal, here for the whole image."""
    image = picture(6, 300, 400)
    extractors_by_layer = {layer: extractor(weights, feature_layer=layer) for layer in ("box_head", "pooled")}
    head, pooled = (extractors_by_layer[layer]([image])[0] for layer in extractors_by_layer)
    np.testing.assert_array_equal(head.boxes, pooled.boxes)
    assert [found.dim for found in extractors_by_layer.values()] == [256, 96]
    assert pooled.features.shape[1] == 96
    assert extractors_by_layer["pooled"].recipe != extractors_by_layer["box_head"].recipe
    detector = build_detector("demo", str(weights))[0]
    with torch.inference_mode():
        inputs, _ = detector.transform([torch.from_numpy(image).permute(2, 0, 1).float() / 255])
        maps = detector.backbone(inputs.tensors)
        box = [torch.tensor([[0.0, 0, 400, 300]])]
        expected = detector.roi_heads.box_roi_pool(maps, box, inputs.image_sizes).mean((2, 3))
    np.testing.assert_allclose(pooled.features[:1], expected, atol=2e-3)


def slow_select(boxes: np.ndarray, scores: np.ndarray, limit: int, iou: float, min_score: float) -> list[int]:
    """Do what `select_boxes` does, one box and one overlap at a time."""

    def overlap(a: np.ndarray, b: np.ndarray) -> float:
        w, h = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        common = max(w, 0) * max(h, 0)
        return common / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - common)

    able = [i for i in range(len(scores)) if scores[i] >= min_score]
    kept: list[int] = []
    while len(kept) < min(limit, len(able)):
        survivors: list[int] = []
        for i in sorted(range(len(scores)), key=lambda i: -scores[i]):
            if all(overlap(boxes[i], boxes[j]) <= iou for j in survivors):
                survivors.append(i)
        kept += [i for i in survivors if i in able and i not in kept]
        iou = min(iou + 0.1, 1.0)
        if min_score > 0:  # all boxes that reach it; no overlap is added
            break
    return sorted(kept[:limit], key=lambda i: -scores[i])


@pytest.mark.parametrize(("limit", "iou", "min_score"), [(5, 0.5, 0.0), (36, 0.3, 0.0), (60, 0.5, 0.0), (36, 0.5, 0.4)])
def test_select_boxes_equals_a_slow_loop(limit: int, iou: float, min_score: float) -> None:
    for seed in range(5):
        rng = np.random.default_rng(seed)
        corner = rng.uniform(0, 60, (50, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 80, (50, 2))], 1).astype(np.float32)
        scores = rng.permutation(50).astype(np.float32) / 50
        fast = select_boxes(torch.from_numpy(boxes), torch.from_numpy(scores), limit, iou, min_score)
        assert fast.tolist() == slow_select(boxes, scores, limit, iou, min_score)


def test_torchvision_extractor_rejects_images_that_are_not_uint8(weights: Path) -> None:
    with pytest.raises(ValueError, match=r"Image 1 is float32 \(4, 4, 3\)"):
        extractor(weights)([picture(0, 60, 60), np.zeros((4, 4, 3), np.float32)])


def test_torchvision_extractor_rejects_too_narrow_images(weights: Path) -> None:
    with pytest.raises(ValueError, match="Image 0 is 900x2, narrower than 1:50"):
        extractor(weights)([np.zeros((2, 900, 3), np.uint8)])
