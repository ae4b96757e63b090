"""The fast path equals the plain one: folded batch norms, proposals, RoIAlign, and regions of demo scenes."""

import copy

import numpy as np
import pytest
import torch
from torch import nn
from torchvision import models
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from extractors.config import TorchvisionConfig
from extractors.demo_detector.average_precision import box_iou
from extractors.nn.inference import DTYPE_NAMES, choose_dtype, fold_batch_norms, optimize_for_inference
from extractors.regions.detectors import build_detector
from extractors.regions.fast_faster_rcnn import roi_align_by_lookup, select_proposals
from extractors.regions.faster_rcnn import TorchvisionExtractor
from tests.helpers.random_networks import calibrated, pictures

pytestmark = pytest.mark.slow

BFLOAT = choose_dtype("cpu") == torch.bfloat16


class Preactivated(nn.Module):
    """A batch norm before its convolution, which must not be folded although a convolution follows in the list."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x)


def detector(name: str) -> nn.Module:
    torch.manual_seed(3)
    return models.get_model_builder(name)(weights=None, weights_backbone=None, num_classes=5)


@pytest.mark.parametrize(
    "name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_resnet50_fpn_v2", "fasterrcnn_mobilenet_v3_large_320_fpn", "demo"]
)
def test_fold_batch_norms_keeps_the_maps_and_removes_every_norm(name: str) -> None:
    """Equal in float64; in float32 the error is at most 1.5 times that of the plain network."""
    inputs = pictures(2, 128, 160)
    model = calibrated(build_detector("demo", "demo")[0] if name == "demo" else detector(name), inputs).backbone
    double = copy.deepcopy(model).double()
    with torch.inference_mode():
        plain = [*model(inputs).values()]
        folded = [*fold_batch_norms(model)(inputs).values()]
        truth = [x.clone() for x in double(inputs.double()).values()]
        exact = [*fold_batch_norms(double)(inputs.double()).values()]
    assert not [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    for maps in zip(plain, folded, truth, exact, strict=True):
        assert maps[0].std() > 0.1, "a map of zeros would show nothing"
        off = [float((x - maps[2]).norm() / maps[2].norm()) for x in maps]
        assert off[3] < 1e-11
        assert off[1] < 1.5 * off[0] + 1e-6


def test_fold_batch_norms_folds_frozen_norms_biases_and_norms_of_convolutions() -> None:
    torch.manual_seed(0)
    frozen, own = FrozenBatchNorm2d(6), nn.Conv2d(6, 6, 1)
    for buffer in frozen.buffers():
        buffer.uniform_(0.5, 1.5)
    own.norm = FrozenBatchNorm2d(6)
    own.norm.running_mean.fill_(0.3)
    model, inputs = nn.Sequential(nn.Conv2d(3, 6, 3), frozen, own), pictures(1, 64, 64)
    with torch.no_grad():
        expected = own.norm(own(frozen(model[0](inputs))))
        torch.testing.assert_close(fold_batch_norms(model)(inputs), expected, rtol=1e-5, atol=1e-5)
    assert isinstance(model[1], nn.Identity)
    assert isinstance(own.norm, nn.Identity)
    other = calibrated(Preactivated(), inputs)
    with torch.no_grad():
        plain = other(inputs)
        torch.testing.assert_close(fold_batch_norms(other)(inputs), plain, rtol=0, atol=0)


def test_full_precision_computes_in_float32_and_the_recipe_contains_the_dtype() -> None:
    exact, quick = (
        TorchvisionExtractor(TorchvisionConfig(model="demo", weights="demo", full_precision=e)) for e in (True, False)
    )
    assert choose_dtype("cpu", full_precision=True) == torch.float32
    assert exact.recipe["dtype"] == "float32"
    assert quick.recipe["dtype"] == DTYPE_NAMES[choose_dtype("cpu")]
    assert exact.recipe["weights_sha256"] == quick.recipe["weights_sha256"], "hashed before it is folded"
    assert {p.dtype for p in quick._detector.parameters()} == {choose_dtype("cpu")}


def test_choose_dtype_is_float32_without_half_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: False)
    assert choose_dtype("cpu") == torch.float32
    weights = {"model": "demo", "weights": "demo", "min_score": 0.05}
    folded, exact = (TorchvisionExtractor(TorchvisionConfig(**weights, full_precision=e)) for e in (False, True))
    assert folded.recipe != exact.recipe
    image = np.asarray(render_scene(compose_scene(2020, 1101))[0])
    mine, plain = folded([image])[0], exact([image])[0]
    np.testing.assert_array_equal(mine.class_ids, plain.class_ids)
    np.testing.assert_allclose(mine.boxes, plain.boxes, atol=0.02)
    np.testing.assert_allclose(mine.features, plain.features, atol=4e-3)


@pytest.mark.parametrize("name", ["fasterrcnn_resnet50_fpn", "fasterrcnn_mobilenet_v3_large_320_fpn", "demo"])
def test_select_proposals_and_roi_align_equal_torchvision(name: str) -> None:
    """In float32, two images at once: the same proposals bit for bit, pooled maps up to rounding."""
    inputs = pictures(2, 192, 256)
    model = build_detector("demo", "demo")[0] if name == "demo" else calibrated(detector(name), inputs)
    images = ImageList(inputs, [(180, 256)] * 2)
    with torch.inference_mode():
        maps = model.backbone(inputs)
        plain, _ = model.rpn(images, maps)
        mine = select_proposals(model.rpn, [*maps.values()], images)
        assert [len(boxes) > 20 for boxes in plain] == [True, True]
        for ours, theirs in zip(mine, plain, strict=True):
            torch.testing.assert_close(ours, theirs, rtol=0, atol=0)
        odd = torch.tensor([[0, 0, 256.0, 180], [255, 179, 256, 180], [3, 3, 3.1, 3.2], [200, 100, 256, 180]])
        boxes = [torch.cat([odd, plain[0]]), plain[1]]
        align = model.roi_heads.box_roi_pool
        theirs = align(maps, boxes, images.image_sizes)
        ours = roi_align_by_lookup(align, maps, boxes, images.image_sizes[0])
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()


def test_select_proposals_keeps_anchors_in_float32() -> None:
    """With deltas of zero every proposal is an anchor, at whole pixels that bfloat16 cannot represent."""
    model = build_detector("demo", "demo")[0]
    for parameter in model.rpn.head.parameters():
        nn.init.zeros_(parameter)
    optimize_for_inference(model, torch.bfloat16)
    maps = [torch.zeros(1, 96, -(-4 // k), 800 // k, dtype=torch.bfloat16) for k in (1, 2, 4, 8)]
    images = ImageList(torch.zeros(1, 3, 32, 6400), [(32, 6400)])
    model.rpn._pre_nms_top_n["testing"] = model.rpn._post_nms_top_n["testing"] = 10**6
    model.rpn.nms_thresh = 1.0
    with torch.inference_mode():
        boxes = select_proposals(model.rpn, maps, images)[0]
    inner = boxes[(boxes[:, 0] > 4000) & (boxes[:, 2] < 6000)]
    assert (((inner[:, 0] + inner[:, 2]) / 2) % 8 == 0).all(), "centers are at multiples of the stride"
    assert len(inner[:, 0].unique()) > 1000


def test_roi_align_by_lookup_pools_a_single_level() -> None:
    maps = {"0": torch.randn(1, 16, 20, 30)}
    boxes = [torch.tensor([[10.0, 20, 300, 200], [0, 0, 480, 320]])]
    align = MultiScaleRoIAlign(["0"], 5, 3)
    torch.testing.assert_close(roi_align_by_lookup(align, maps, boxes, (320, 480)), align(maps, boxes, [(320, 480)]))


@pytest.mark.skipif(not BFLOAT, reason="this processor has no bfloat16")
def test_half_precision_finds_the_same_regions() -> None:
    """With trained weights and test scenes; a region may come from another proposal of nearly the same score."""
    settings = {"model": "demo", "weights": "demo", "min_score": 0.3, "nms_iou": 0.5}  # as in the plan of the demo
    exact, quick = (TorchvisionExtractor(TorchvisionConfig(**settings, full_precision=e)) for e in (True, False))
    rows, cosines = 0, []
    for index in range(1100, 1160):
        image = np.asarray(render_scene(compose_scene(2020, index))[0])
        a, b = exact([image])[0], quick([image])[0]
        overlap = box_iou(a.boxes, b.boxes) * (a.class_ids[:, None] == b.class_ids)
        mate, rows = overlap.argmax(1), rows + len(a.boxes)
        x, y = a.features.astype(float), b.features[mate].astype(float)
        cosine = (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1)
        cosines += [*cosine[overlap.max(1) > 0.9]]
    assert len(cosines) >= 0.985 * rows
    assert np.mean(np.array(cosines) > 0.9999) > 0.96
    assert np.median(cosines) > 0.99997
