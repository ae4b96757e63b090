"""detectron2 extractor, where detectron2 is installed: equal detections, and the bottom-up model in its layers."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from extractors.bottom_up.extractor import BottomUpExtractor, network_input_size
from extractors.bottom_up.weights import save_weights
from extractors.config import BottomUpConfig, Detectron2Config
from extractors.regions.detectron2_faster_rcnn import find_config_file
from extractors.registry import build_region_extractor
from tests.helpers import bottom_up_ports as ports
from tests.helpers.image_bytes import picture
from tests.helpers.random_bottom_up import calibrated
from tests.reference import bottom_up as slow_caffe

pytestmark = pytest.mark.slow

FPN = "COCO-Detection/faster_rcnn_R_50_FPN_3x.yaml"


def test_missing_detectron2_is_reported_with_its_source(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "detectron2", None)
    with pytest.raises(ImportError, match=r"in no package index\. Install it from its repository"):
        build_region_extractor(Detectron2Config(model=FPN, weights=tmp_path / "x.pkl"))


def settings(model: str, folder: Path):
    """Return settings of detectron2 with small inputs, and the file that contains them."""
    config = pytest.importorskip("detectron2.config")
    cfg = config.get_cfg()
    cfg.merge_from_file(str(find_config_file(model)), allow_unsafe=False)
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST = 160, 240
    cfg.MODEL.RPN.POST_NMS_TOPK_TEST = 60
    (folder / "settings.yaml").write_text(cfg.dump())
    return cfg, folder / "settings.yaml"


@pytest.mark.parametrize("model", [FPN, "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml"])
def test_detectron2_extractor_returns_every_detection_of_detectron2(model: str, tmp_path: Path) -> None:
    """A detection of detectron2 at the best class of a proposal is a region with the same box, class and score."""
    cfg, path = settings(model, tmp_path)
    from detectron2.modeling import build_model

    cfg.MODEL.ROI_HEADS.SCORE_THRESH_TEST, cfg.MODEL.ROI_HEADS.NMS_THRESH_TEST = 0.0, 1.0
    cfg.TEST.DETECTIONS_PER_IMAGE = 100_000
    torch.manual_seed(0)
    theirs = build_model(cfg).eval()
    for key, value in theirs.state_dict().items():
        if key.endswith("norm.weight"):
            value.fill_(0.3)  # without this, activations of random weights grow too large
    torch.save({"model": theirs.state_dict()}, tmp_path / "random.pth")
    ours = build_region_extractor(
        Detectron2Config(
            model=str(path), weights=tmp_path / "random.pth", whole_image=False, max_regions=60, nms_iou=1.0
        )
    )
    image = picture(4, 240, 320)
    regions, prepared = ours([image])[0], ours.preprocess(image)
    raw = prepared.input * theirs.pixel_std + theirs.pixel_mean
    with torch.inference_mode():
        found = theirs([{"image": raw, "height": 240, "width": 320}])[0]["instances"]
    detections = np.column_stack([found.pred_boxes.tensor, found.scores, found.pred_classes])
    mine = np.column_stack([regions.boxes, regions.scores, regions.class_ids])
    assert len(mine) > 10
    assert regions.features.shape[1] == ours.dim
    for row in mine:
        assert np.abs(detections - row).max(1).min() < 1e-2
    assert mine[:, 4].max() == pytest.approx(found.scores.max().item(), abs=1e-5)


def test_detectron2_extractor_uses_anchors_of_the_checkpoint(tmp_path: Path) -> None:
    cfg, path = settings("COCO-Detection/faster_rcnn_R_50_C4_1x.yaml", tmp_path)
    from detectron2.modeling import build_model

    state = build_model(cfg).state_dict()
    extractors = []
    for shift in (None, 0.0, 8.0):
        more = {}
        if shift is not None:
            (anchors,) = build_model(cfg).proposal_generator.anchor_generator.cell_anchors
            more["proposal_generator.anchor_generator.cell_anchors.0"] = anchors + shift
        save_file({k: v.contiguous() for k, v in {**state, **more}.items()}, tmp_path / "a.safetensors")
        extractors.append(build_region_extractor(Detectron2Config(model=str(path), weights=tmp_path / "a.safetensors")))
    plain, same, moved = (next(iter(x._model.proposal_generator.anchor_generator.cell_anchors)) for x in extractors)
    hashes = [extractor.recipe["weights_sha256"] for extractor in extractors]
    assert hashes[0] == hashes[1] != hashes[2]
    assert torch.equal(plain, same)
    assert torch.equal(plain + 8, moved)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("COCO-Detection/retinanet_R_50_FPN_1x.yaml", "cannot be read as settings of detectron2 without running code"),
        ("COCO-Detection/rpn_R_50_FPN_1x.yaml", "no single box head"),
        ("Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml", "no single box head"),
        ("sigmoid", "USE_SIGMOID_CE"),
        ("nowhere.yaml", "no settings"),
    ],
)
def test_detectron2_extractor_rejects_other_models(model: str, message: str, tmp_path: Path) -> None:
    pytest.importorskip("detectron2.config")
    if model == "sigmoid":
        cfg, path = settings(FPN, tmp_path)
        cfg.MODEL.ROI_BOX_HEAD.USE_SIGMOID_CE = True
        path.write_text(cfg.dump())
        model = str(path)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        build_region_extractor(Detectron2Config(model=model, weights=tmp_path / "x.pkl"))


def in_detectron2s_layers(state: dict[str, torch.Tensor]):
    """Build the bottom-up model from layers of detectron2: backbone, proposal head, pooler, res5, predictor."""
    pytest.importorskip("detectron2")
    from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
    from detectron2.modeling.backbone.resnet import BottleneckBlock, ResNet
    from detectron2.modeling.box_regression import Box2BoxTransform
    from detectron2.modeling.poolers import ROIPooler
    from detectron2.modeling.proposal_generator.rpn import StandardRPNHead
    from detectron2.modeling.roi_heads.fast_rcnn import FastRCNNOutputLayers

    class CaffeStem(torch.nn.Module):
        stride, out_channels = 4, 64

        def __init__(self):
            super().__init__()
            self.conv1 = Conv2d(3, 64, 7, 2, 3, bias=False, norm=FrozenBatchNorm2d(64))

        def forward(self, x):
            return F.max_pool2d(F.relu(self.conv1(x)), 3, 2, ceil_mode=True)

    def stage(blocks, stride, inputs, width, dilation=1):
        return ResNet.make_stage(
            BottleneckBlock, blocks, stride_per_block=[stride] + [1] * (blocks - 1), in_channels=inputs,
            bottleneck_channels=width, out_channels=4 * width, norm="FrozenBN", stride_in_1x1=True, dilation=dilation,
        )  # fmt: skip

    stages = [stage(3, 1, 64, 64), stage(4, 2, 256, 128), stage(23, 2, 512, 256)]
    whole = torch.nn.Module()
    whole.backbone = ResNet(CaffeStem(), stages, out_features=["res4"])
    whole.proposal_generator = torch.nn.Module()
    whole.proposal_generator.rpn_head = StandardRPNHead(in_channels=1024, num_anchors=12, conv_dims=[512])
    whole.roi_heads = torch.nn.Module()
    whole.roi_heads.res5 = torch.nn.Sequential(*stage(3, 1, 1024, 512, dilation=2))
    classes = len(state["cls_score.bias"]) - 1
    transform = Box2BoxTransform((10.0, 10.0, 5.0, 5.0))
    whole.roi_heads.box_predictor = FastRCNNOutputLayers(
        ShapeSpec(channels=2048), box2box_transform=transform, num_classes=classes
    )
    theirs = ports.airsplay(state)
    missing, _ = whole.load_state_dict(theirs, strict=False)
    assert missing == []
    return whole.eval(), ROIPooler(14, (1 / 16,), 0, "ROIPool"), theirs[ports.CELL_ANCHORS]


def test_bottom_up_extractor_equals_the_model_in_layers_of_detectron2(tmp_path: Path) -> None:
    """Backbone, heads, pooler, res5 and predictor are from detectron2; boxes and selection are from the reference."""
    pytest.importorskip("detectron2")
    model = calibrated(50, 12, short=160)
    whole, pooler, anchors = in_detectron2s_layers(model.state_dict())
    from detectron2.structures import Boxes

    save_weights(model, tmp_path / "vg.safetensors", {})
    ours = BottomUpExtractor(
        BottomUpConfig(
            weights=tmp_path / "vg.safetensors", full_precision=True, min_size=160, max_size=320, max_proposals=40
        )
    )
    image = render_scene(compose_scene(5, 3))[0]
    net_w, net_h, scale = network_input_size(400, 300, 160, 320)
    blob = ours.preprocess(image).input[None]
    with torch.inference_mode():
        maps = whole.backbone(blob)["res4"]
        logits, deltas = whole.proposal_generator.rpn_head([maps])
        foreground = logits[0][0].permute(1, 2, 0).numpy()
        moves = deltas[0][0].permute(1, 2, 0).unflatten(2, (12, 4)).numpy()
        inclusive = (anchors - torch.tensor([0.0, 0.0, 1.0, 1.0])).numpy()
        rois = slow_caffe.proposals(foreground, moves, inclusive, net_w, net_h, scale, 40)
        features = whole.roi_heads.res5(pooler([maps], [Boxes(torch.tensor(rois).float())])).mean((2, 3))
        scores = whole.roi_heads.box_predictor(features)[0].softmax(1)
    boxes = np.array(rois) / scale
    rows = slow_caffe.kept_rows(boxes, scores.roll(1, 1).numpy(), 36, 36)
    regions = ours([image])[0]
    np.testing.assert_allclose(regions.boxes, boxes[rows], atol=0.1)
    np.testing.assert_allclose(regions.features, features[rows], rtol=2e-3, atol=2e-3)  # rows are stored in half
    assert regions.class_ids.tolist() == scores[rows, :-1].argmax(1).tolist()
    with torch.inference_mode():
        mine = ours._compute_pool5(ours._model.backbone_features(blob), torch.tensor(rois).float())
    assert ((mine - features).norm(dim=1) / features.norm(dim=1)).max() < 1e-4
