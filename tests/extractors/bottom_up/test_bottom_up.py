"""Bottom-up extractor: published facts, parts compared with slow loops, and the complete model with a reference."""

import csv
from base64 import b64decode
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou
from torchvision.ops import roi_pool as torchvision_roi_pool

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from extractors.bottom_up.extractor import BottomUpExtractor, network_input_size
from extractors.bottom_up.model import WIDTH, BottomUpRCNN
from extractors.bottom_up.pooling import roi_max_pool
from extractors.bottom_up.proposals import apply_deltas, caffe_anchors, make_anchor_grid, select_proposals
from extractors.bottom_up.selection import select_regions
from extractors.bottom_up.weights import MEAN, save_weights
from extractors.config import BottomUpConfig
from tests.helpers import bottom_up_ports as ports
from tests.helpers.image_bytes import picture
from tests.helpers.random_bottom_up import calibrated
from tests.reference import bottom_up as reference

pytestmark = pytest.mark.slow

GOLDEN = Path(__file__).parents[4] / "shared" / "golden"
SMALL = {"kind": "bottom-up", "min_size": 160, "max_size": 320, "max_proposals": 40}
FEW = {"classes": 50, "attributes": 12}


@pytest.fixture(scope="module")
def model() -> BottomUpRCNN:
    return calibrated(**FEW, short=160)


@pytest.fixture(scope="module")
def weights(model: BottomUpRCNN, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "random.safetensors"
    save_weights(model, path, {})
    return path


def extractor(weights: Path, **settings) -> BottomUpExtractor:
    return BottomUpExtractor(BottomUpConfig(**{**SMALL, "weights": weights, **settings}))


def test_caffe_anchors_equal_the_list_of_caffe() -> None:
    ours = [tuple(map(int, row)) for row in caffe_anchors().tolist()]
    # The nine of lib/rpn/generate_anchors.py, listed there counted from 1, for scales 8, 16, 32; and those of scale 4.
    listed = [(-83, -39, 100, 56), (-175, -87, 192, 104), (-359, -183, 376, 200)]
    listed += [(-55, -55, 72, 72), (-119, -119, 136, 136), (-247, -247, 264, 264)]
    listed += [(-35, -79, 52, 96), (-79, -167, 96, 184), (-167, -343, 184, 360)]
    assert [row for i, row in enumerate(ours) if i % 4] == [tuple(side - 1 for side in row) for row in listed]
    assert ours[::4] == [(-38, -16, 53, 31), (-24, -24, 39, 39), (-14, -36, 29, 51)]
    np.testing.assert_array_equal((caffe_anchors()[:, :2] + caffe_anchors()[:, 2:]) / 2, 7.5)


def test_bottom_up_network_has_the_published_size_and_strides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("extractors.bottom_up.model.WIDTH", WIDTH)
    with torch.device("meta"):
        model = BottomUpRCNN()
    assert model.dim == 2048
    assert round(sum(p.numel() for p in model.parameters()) / 1e6, 1) == 65.3
    for stage, stride in ((model.res2, 1), (model.res3, 2), (model.res4, 2), (model.res5, 1)):
        assert [block.conv1.stride[0] for block in stage] == [stride] + [1] * (len(stage) - 1)
        assert {block.conv2.stride for block in stage} == {(1, 1)}
        dilation = 2 if stage is model.res5 else 1
        assert {(block.conv2.dilation[0], block.conv2.padding[0]) for block in stage} == {(dilation, dilation)}


@pytest.mark.parametrize(
    ("size", "net"), [((640, 480), (800, 600)), ((500, 333), (901, 600)), ((640, 360), (1000, 562))]
)
def test_network_input_size_equals_caffe(size: tuple[int, int], net: tuple[int, int]) -> None:
    assert network_input_size(*size)[:2] == net


@pytest.mark.parametrize("shape", [(480, 640), (333, 500), (1440, 1920), (97, 61), (7, 300)])
def test_preprocess_resizes_like_opencv(weights: Path, shape: tuple[int, int]) -> None:
    cv2 = pytest.importorskip("cv2")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (*shape, 3), dtype=np.uint8)
    scale = 600 / min(shape)
    scale = 1000 / max(shape) if round(scale * max(shape)) > 1000 else scale
    blob = pixels[:, :, ::-1].astype(np.float32) - np.array(MEAN, np.float32)
    theirs = cv2.resize(blob, None, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
    ours = extractor(weights, min_size=600, max_size=1000).preprocess(pixels).input
    np.testing.assert_allclose(ours.permute(1, 2, 0), theirs, atol=0.1)  # of 256 levels, on noise


def test_select_proposals_equals_a_loop_over_anchors() -> None:
    rng = np.random.default_rng(1)
    for height, width, std in ((5, 7, 0.3), (8, 4, 0.8), (3, 3, 0.05)):
        foreground = rng.permutation(height * width * 12).reshape(height, width, 12).astype(np.float32)
        deltas = (std * rng.normal(size=(height, width, 12, 4))).astype(np.float32)
        net_w, net_h, scale = 16 * width - 3, 16 * height - 9, 1.3
        cells = make_anchor_grid(caffe_anchors(), height, width)
        boxes = apply_deltas(cells, torch.from_numpy(deltas).reshape(-1, 4), (net_w, net_h))
        ours = select_proposals(torch.from_numpy(foreground).flatten(), boxes, scale, 20)
        slow = reference.proposals(foreground, deltas, caffe_anchors().numpy(), net_w, net_h, scale, 20)
        np.testing.assert_allclose(ours, np.array(slow), atol=1e-3)
        assert (ours[:, 2:] - ours[:, :2] + 1).min() >= 16 * scale


def test_select_proposals_does_not_depend_on_the_nms_prefix() -> None:
    draw = torch.Generator().manual_seed(0)
    corners = torch.rand(9000, 2, generator=draw) * 300
    boxes = torch.cat([corners, corners + 60 + torch.rand(9000, 2, generator=draw) * 30], 1)
    logits = torch.randn(9000, generator=draw)
    order = logits.argsort(descending=True)[:6000]
    slow = reference.nms(boxes[order].tolist(), logits[order].tolist(), 0.7, 150)
    assert select_proposals(logits, boxes, 1.0, 150).tolist() == boxes[order][slow].tolist()


def test_roi_max_pool_equals_torchvision_bit_for_bit_and_a_slow_loop() -> None:
    draw = torch.Generator().manual_seed(3)
    for height, width in ((38, 50), (10, 14), (63, 21)):
        maps = torch.randn(1, 6, height, width, generator=draw)
        corners = torch.rand(60, 2, generator=draw) * torch.tensor([16 * width - 20, 16 * height - 20])
        sides = 10 + torch.rand(60, 2, generator=draw) ** 2 * torch.tensor([16.0 * width, 16.0 * height])
        boxes = torch.cat(
            [corners, torch.minimum(corners + sides, torch.tensor([16.0 * width, 16.0 * height]) + 20)], 1
        )
        boxes[:4] = torch.tensor(
            [[0, 0, 16 * width - 1, 16 * height - 1], [24, 8, 40, 24], [8, 24, 8, 24], [0, 0, 7, 7]]
        )
        pooled = roi_max_pool(maps, boxes)
        ours = pooled.rows[pooled.index].unflatten(1, (14, 14)).permute(0, 3, 1, 2)
        assert torch.equal(ours, torchvision_roi_pool(maps, [boxes], 14, 1 / 16))
        for i in range(0, 60, 7):
            np.testing.assert_array_equal(ours[i], reference.roi_pool(maps[0].numpy(), boxes[i].tolist()))


@pytest.mark.parametrize("trial", range(100))
def test_select_regions_equals_a_loop_over_classes(trial: int) -> None:
    rng = np.random.default_rng(trial)
    n, classes = int(rng.integers(1, 60)), int(rng.integers(2, 30))
    corners = rng.uniform(0, 80, (n, 2))
    boxes = np.concatenate([corners, corners + rng.uniform(15, 90, (n, 2))], 1).astype(np.float32)
    logits = rng.normal(size=(n, classes + 1)) * rng.choice([0.2, 2.0, 5.0])
    scores = torch.from_numpy(logits).softmax(1).float().numpy()
    min_regions, max_regions = [(36, 36), (10, 100), (1, 3), (5, 12)][trial % 4]
    ours = select_regions(torch.from_numpy(boxes), torch.from_numpy(scores[:, 1:]), min_regions, max_regions, 0.2)[0]
    assert ours.tolist() == reference.kept_rows(boxes, scores, min_regions, max_regions)


@pytest.mark.parametrize(("min_regions", "max_regions"), [(36, 36), (10, 100), (1, 20), (80, 90)])
def test_select_regions_lists_every_region_that_rounding_may_exchange(min_regions: int, max_regions: int) -> None:
    """Confidences that move by up to half the margin change the choice of uncertain regions only."""
    corners = torch.arange(100.0)[:, None].repeat(1, 2) * 50
    boxes = torch.cat([corners, corners + 20], 1)  # the boxes do not overlap
    changed = 0
    for trial in range(40):
        rng = np.random.default_rng(trial)
        confidence = rng.uniform(-4, 1, 100)  # logits
        moved = confidence + rng.uniform(-0.15, 0.15, 100)
        first, other = (torch.from_numpy(1 / (1 + np.exp(-x)))[:, None].float() for x in (confidence, moved))
        kept, uncertain = select_regions(boxes, first, min_regions, max_regions, 0.2, margin=0.3)
        exchanged = {*kept.tolist()} ^ {*select_regions(boxes, other, min_regions, max_regions, 0.2)[0].tolist()}
        assert exchanged <= {*uncertain.tolist()}
        assert kept.tolist() == select_regions(boxes, first, min_regions, max_regions, 0.2)[0].tolist()
        changed += len(exchanged)
        assert len(uncertain) < 30
    assert changed > 10, "no confidence was near the limit, so the test shows little"


@pytest.fixture(scope="module")
def described(model: BottomUpRCNN, weights: Path) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """An image, and all of its proposals as the slow reference computes them."""
    image = render_scene(compose_scene(5, 3))[0]
    size = image.shape[1], image.shape[0]
    blob, scale = (
        extractor(weights, full_precision=True).preprocess(image).input[None],
        network_input_size(*size, 160, 320)[2],
    )
    state, anchors = ports.milvlg(model.state_dict()), caffe_anchors().numpy()
    return image, reference.all_proposals(blob, state, anchors, size, scale, 40)


@pytest.mark.parametrize(("min_regions", "max_regions"), [(36, 36), (3, 100)])
def test_bottom_up_extractor_equals_the_reference(
    described: tuple[np.ndarray, dict[str, np.ndarray]], weights: Path, min_regions: int, max_regions: int
) -> None:
    image, slow = described[0], reference.stored_rows(described[1], min_regions, max_regions)
    regions = extractor(weights, full_precision=True, min_regions=min_regions, max_regions=max_regions)([image])[0]
    assert regions.size == (image.shape[1], image.shape[0])
    assert len(regions.features) == len(slow["features"]) >= 3
    np.testing.assert_allclose(regions.boxes, slow["boxes"], atol=0.1)  # pixels
    np.testing.assert_allclose(regions.features, slow["features"], rtol=2e-3, atol=2e-3)  # half precision
    assert regions.class_ids.tolist() == slow["class_ids"].tolist()
    assert regions.attr_ids.tolist() == slow["attr_ids"].tolist()
    np.testing.assert_allclose(regions.scores, slow["scores"], atol=1e-3)
    np.testing.assert_allclose(regions.attr_scores, slow["attr_scores"], atol=1e-3)
    moved = extractor(
        weights, full_precision=True, min_regions=min_regions, max_regions=max_regions, stored_boxes="regressed"
    )([image])[0]
    np.testing.assert_allclose(moved.boxes, slow["regressed"], atol=0.2)
    np.testing.assert_array_equal(moved.features, regions.features)


@pytest.fixture(scope="module")
def exact(weights: Path) -> SimpleNamespace:
    """`build(limits)`: extractor in float32; `extract(limits, index)`: its regions of a scene, computed once."""
    build = cache(lambda limits: extractor(weights, full_precision=True, min_regions=limits[0], max_regions=limits[1]))
    return SimpleNamespace(
        build=build, extract=cache(lambda limits, index: build(limits)([render_scene(compose_scene(11, index))[0]])[0])
    )


@pytest.mark.parametrize(
    ("dtype", "limits", "scenes"),
    [("bfloat16", (36, 36), 4), ("bfloat16", (10, 100), 2), ("float16", (36, 36), 2)],
)
def test_half_precision_finds_the_regions_of_full_precision(
    weights: Path,
    exact: SimpleNamespace,
    dtype: str,
    limits: tuple[int, int],
    scenes: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """bfloat16 as on processors that support it, and float16 as on a GPU."""
    kept = {"min_regions": limits[0], "max_regions": limits[1]}
    monkeypatch.setattr("extractors.bottom_up.extractor.choose_dtype", lambda *_: getattr(torch, dtype))
    quick = extractor(weights, **kept)
    assert exact.build(limits).recipe != quick.recipe
    same, cosines = [], []
    for index in range(scenes):
        truth, found = exact.extract(limits, index), quick([render_scene(compose_scene(11, index))[0]])[0]
        overlap, index_of_best = box_iou(torch.from_numpy(truth.boxes), torch.from_numpy(found.boxes)).max(1)
        same += (overlap > 0.99).tolist()
        pair = (torch.from_numpy(x).float() for x in (truth.features, found.features[index_of_best]))
        cosines += torch.cosine_similarity(*pair)[overlap > 0.99].tolist()
    assert np.mean(same) >= 0.96  # the benchmark `bottom-up` measures it at full size
    assert min(cosines) >= 0.9995  # at 600 pixels above 0.9999: the same benchmark


def test_bottom_up_boxes_respect_the_limits_of_caffe(weights: Path) -> None:
    """A box ends at (net side - 1) / scale, and no side is below 16 - 1 / scale."""
    image = picture(2, 240, 320)
    regions = extractor(weights, max_proposals=300, max_regions=300, min_regions=300)([image])[0]
    net_w, net_h, scale = network_input_size(320, 240, 160, 320)
    sides = regions.boxes[:, 2:] - regions.boxes[:, :2]
    assert len(regions.boxes) > 100
    assert sides.min() >= 16 - 1 / scale - 1e-3
    np.testing.assert_allclose(regions.boxes[:, 2:].max(0), [(net_w - 1) / scale, (net_h - 1) / scale], rtol=1e-5)
    assert regions.boxes.min() == 0


@pytest.mark.skipif(not GOLDEN.is_dir(), reason="the original Caffe output is not available")
def test_box_limits_hold_for_original_caffe_output() -> None:
    csv.field_size_limit(1 << 30)
    names = ["id", "h", "w", "classes", "scores", "attributes", "attribute_scores", "n", "boxes", "features"]
    with open(GOLDEN / "train2014_obj36.tsv", newline="") as file:
        for row in csv.DictReader(file, names, delimiter="\t"):
            boxes = np.frombuffer(b64decode(row["boxes"]), "<f4").reshape(-1, 4)
            net_w, net_h, scale = network_input_size(int(row["w"]), int(row["h"]))
            last = np.array([(net_w - 1) / scale, (net_h - 1) / scale])
            np.testing.assert_allclose(boxes[:, 2:].max(0), last, atol=1e-3)
            assert (boxes[:, 2:] - boxes[:, :2]).min() >= 16 - 1 / scale - 1e-3


def test_bottom_up_region_does_not_depend_on_its_batch(weights: Path) -> None:
    found = extractor(weights)
    images = [render_scene(compose_scene(10, index))[0] for index in range(3)]
    together = found.extract([found.preprocess(image) for image in images])
    for image, regions in zip(images, together, strict=True):
        alone = found([image])[0]
        np.testing.assert_allclose(alone.boxes, regions.boxes, atol=0.05)
        np.testing.assert_allclose(alone.features, regions.features, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("shape", [(1, 1), (6, 300), (300, 6)])
def test_bottom_up_extractor_accepts_tiny_and_thin_images(weights: Path, shape: tuple[int, int]) -> None:
    regions = extractor(weights)([np.full((*shape, 3), 90, np.uint8)])[0]
    assert np.isfinite(regions.features).all()
    assert len(regions.features) == len(regions.boxes)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"min_regions": 50, "max_regions": 36}, "min_regions 50 is above max_regions 36"),
        ({"min_size": 700, "max_size": 600}, "min_size 700 is above max_size 600"),
        ({"min_score": 0}, "greater than 0"),
        ({"stored_boxes": "moved"}, "proposals"),
    ],
)
def test_bottom_up_config_rejects_invalid_settings(settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        BottomUpConfig(kind="bottom-up", weights="x.safetensors", **settings)
