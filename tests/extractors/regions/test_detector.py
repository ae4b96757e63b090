"""Detectors: weights by name and path, the demo detector on test scenes, its training, average precision."""

import io
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision import models

from data.demo.scenes.kinds import CLASSES, KINDS, PLACES
from extractors.config import TorchvisionConfig
from extractors.demo_detector.average_precision import ImageBoxes, average_precision
from extractors.demo_detector.heads import _compute_code_loss, _jitter_boxes, build_auxiliary_heads
from extractors.demo_detector.scenes import collect_vocabulary, load_example, render_training_scene, repeat_factors
from extractors.demo_detector.train import DetectorTrainConfig, save_detector, train
from extractors.nn.state_dict import state_sha256
from extractors.regions.demo_network import build_demo_detector
from extractors.regions.detectors import DEMO_WEIGHTS, build_detector
from extractors.regions.faster_rcnn import TorchvisionExtractor

pytestmark = pytest.mark.slow

MOBILE = "fasterrcnn_mobilenet_v3_large_320_fpn"


def test_build_detector_reads_weights_from_safetensors_and_pth(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = models.get_model_builder(MOBILE)(weights=None, weights_backbone=None, num_classes=4)
    save_file({k: v.contiguous() for k, v in model.state_dict().items()}, tmp_path / "a.safetensors")
    torch.save({"model": model.state_dict(), "epoch": 3}, tmp_path / "b.pth")
    image = np.random.default_rng(7).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    found = [
        TorchvisionExtractor(TorchvisionConfig(model=MOBILE, weights=str(tmp_path / name), max_regions=7, max_size=320))
        for name in ("a.safetensors", "b.pth")
    ]
    one, other = (f([image])[0] for f in found)
    np.testing.assert_array_equal(one.features, other.features)
    assert one.features.shape == (8, 1024)
    assert found[0].classes == ()
    assert found[0].recipe == found[1].recipe
    assert str(tmp_path) not in str(found[0].recipe)
    assert found[0].recipe != TorchvisionExtractor(found[0].config.model_copy(update={"max_size": 640})).recipe


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"model": "fasterrcnn_resnet50_fnp"}, ValueError, "did you mean 'fasterrcnn_resnet50_fpn'"),
        ({"model": "retinanet_resnet50_fpn"}, ValueError, "Unknown detector 'retinanet_resnet50_fpn'"),
        ({"model": MOBILE, "weights": "COCO_V9"}, ValueError, "COCO_V1"),
        ({"model": "demo", "weights": "DEFAULT"}, ValueError, 'Set `regions.weights` to "demo" or to a file'),
        ({"weights": "gone.safetensors"}, FileNotFoundError, "The weights file gone.safetensors does not exist"),
        ({"model": MOBILE}, ValueError, "lack 'backbone.body.0.0.weight'"),
    ],
)
def test_torchvision_extractor_rejects_invalid_settings(settings: dict, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        TorchvisionExtractor(TorchvisionConfig(**{"model": "demo", "weights": "demo", **settings}))


def test_missing_weights_are_reported_with_their_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: object, **__: object) -> None:
        raise URLError("no route")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torch.hub.urlopen", offline)
    with pytest.raises(
        FileNotFoundError, match=r"could not be downloaded .*no route.*Download https://download\.pytorch"
    ):
        TorchvisionExtractor(TorchvisionConfig(model=MOBILE, weights="COCO_V1"))


def test_build_detector_knows_a_published_file_by_its_name(tmp_path: Path) -> None:
    model = models.get_model_builder(MOBILE)(weights=None, weights_backbone=None, num_classes=91)
    name = models.get_model_weights(MOBILE)["COCO_V1"].url.rsplit("/", 1)[-1]
    torch.save(model.state_dict(), tmp_path / name)
    classes = TorchvisionExtractor(TorchvisionConfig(model=MOBILE, weights=str(tmp_path / name))).classes
    assert (classes[0], classes[1], classes[90]) == ("__background__", "person", "toothbrush")


def test_build_detector_names_the_first_key_of_another_shape(tmp_path: Path) -> None:
    state = build_demo_detector(5).state_dict()
    state["backbone.body.layer2.0.conv1.weight"] = torch.zeros(2, 2)
    torch.save(state, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"'backbone.body.layer2.0.conv1.weight' is \(2, 2\) in the file"):
        TorchvisionExtractor(TorchvisionConfig(model="demo", weights=str(tmp_path / "odd.pth")))


def test_average_precision_equals_torchmetrics() -> None:
    detection = pytest.importorskip("torchmetrics.detection")
    rng = np.random.default_rng(11)
    targets, found = [], []
    for _ in range(25):
        corner = rng.uniform(0, 200, (8, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(50, 90, (8, 2))], 1).astype(np.float32)
        labels = rng.integers(1, 5, 8)
        near = boxes[rng.integers(0, 8, 30)] + rng.normal(0, 6, (30, 4)).astype(np.float32)
        guesses = np.where(rng.random(30) < 0.8, labels[rng.integers(0, 8, 30)], rng.integers(1, 5, 30))
        targets.append(ImageBoxes(boxes, labels))
        found.append(ImageBoxes(near, guesses, rng.permutation(30).astype(np.float32) / 30 + rng.random() / 50))
    metric = detection.MeanAveragePrecision(iou_thresholds=[0.5], class_metrics=True)
    as_tensors = [
        [{k: torch.as_tensor(v) for k, v in vars(x).items() if v is not None} for x in y] for y in (found, targets)
    ]
    metric.update(*as_tensors)
    theirs = metric.compute()
    mine = average_precision(targets, found)
    np.testing.assert_allclose([mine[int(c)] for c in theirs["classes"]], theirs["map_per_class"], atol=1e-6)
    assert np.mean(list(mine.values())) == pytest.approx(float(theirs["map"]), abs=1e-6)
    assert 0.05 < theirs["map"] < 0.95


def test_demo_detector_finds_the_things_of_test_scenes() -> None:
    detector, classes = build_detector("demo", "demo")
    assert classes == ("background", *CLASSES)
    assert DEMO_WEIGHTS.stat().st_size < 12e6
    targets, found = [], []
    for index in range(1100, 1130):  # of the demo's test split
        scene = render_training_scene((2020, index))
        pixels = np.array(Image.open(io.BytesIO(scene.jpeg)))
        with torch.inference_mode():
            result = detector([torch.from_numpy(pixels).permute(2, 0, 1).float() / 255])[0]
        targets.append(ImageBoxes(scene.boxes, scene.labels))
        found.append(ImageBoxes(*(result[key].numpy() for key in ("boxes", "labels", "scores"))))
    assert np.mean(list(average_precision(targets, found).values())) > 0.8


class Always:
    """A random generator that mirrors and does not change the brightness."""

    def random(self) -> float:
        return 0.0

    def uniform(self, *_: float) -> float:
        return 1.0


def test_load_example_mirrors_boxes_with_the_scene() -> None:
    scene = render_training_scene((7, 4))
    pixels = np.array(Image.open(io.BytesIO(scene.jpeg))) / 255
    mirrored, target = load_example(scene, sorted({*scene.actions}), sorted({*scene.colors}), Always())
    for (x1, y1, x2, y2), box in zip(scene.boxes.astype(int), target["boxes"].int().tolist(), strict=True):
        crop = mirrored[:, box[1] : box[3], box[0] : box[2]].permute(1, 2, 0).numpy()
        np.testing.assert_allclose(crop[:, ::-1], pixels[y1:y2, x1:x2], atol=1e-5)


def test_repeat_factors_are_higher_for_rare_things() -> None:
    scenes = [render_training_scene((7, index)) for index in range(40)]
    for scene, repeat in zip(scenes, repeat_factors(scenes), strict=True):
        shares = [sum(label in other.labels for other in scenes) / 40 for label in scene.labels]
        assert repeat == pytest.approx(max(1, max((0.05 / share) ** 0.5 for share in shares)))


def test_train_in_two_processes_writes_a_detector_and_resumes_from_it(tmp_path: Path) -> None:
    config = DetectorTrainConfig(minutes=0.03, num_scenes=12, batch_size=2, num_processes=2)
    threads = torch.get_num_threads()
    model, run = train(config)
    assert torch.get_num_threads() == threads, "the number of threads of the caller is restored"
    save_detector(model, config, run, tmp_path / "new.safetensors")
    loaded, classes = build_detector("demo", str(tmp_path / "new.safetensors"))
    assert run.steps >= 1
    assert classes == ("background", *CLASSES)
    for key, value in loaded.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(value, model.state_dict()[key], atol=1e-3, rtol=1e-3)
    still = config.model_copy(
        update={"num_processes": 1, "lr": 1e-12, "init_weights": str(tmp_path / "new.safetensors")}
    )
    further, run = train(still)
    assert run.start_sha256 == state_sha256(loaded)
    for key, value in further.named_parameters():
        torch.testing.assert_close(value, loaded.get_parameter(key), atol=1e-6, rtol=0)


def test_target_codes_add_up_the_facts_of_a_box() -> None:
    scenes = [render_training_scene((7, index)) for index in range(30)]
    actions, colors = collect_vocabulary(scenes)
    codes = build_auxiliary_heads(actions, colors)["code"]
    every = torch.cat([codes.labels, codes.action, codes.color])
    assert (every.sum(dim=1) == 4).all()
    assert ((every @ every.T).fill_diagonal_(0) <= 1).all(), "two codes share more than one position"
    unknown = 0
    for scene in scenes:
        _, target = load_example(scene, actions, colors, np.random.default_rng(0))
        expected = [codes.labels[scene.labels[-1]] / 2]
        for label, action, color, known in zip(
            scene.labels, scene.actions, scene.colors, target["known"].tolist(), strict=True
        ):
            code = codes.labels[label].clone()
            if action:
                code += codes.action[actions.index(action)]
            if color:
                code += codes.color[colors.index(color)]
            expected.append(code / code.norm())
            name = CLASSES[label - 1]
            held = name not in PLACES and KINDS[name].actions == () and KINDS[name].family != "person"
            assert known == (bool(action) or name in PLACES or held)
            unknown += not known
        torch.testing.assert_close(codes(target), torch.stack(expected))
        assert scene.labels[-1] - 1 >= CLASSES.index(PLACES[0]), "the last box is that of the place"
    assert unknown, "the action of a ridden horse is unknown"


def test_jitter_boxes_stay_in_the_image_after_the_whole_image_box() -> None:
    torch.manual_seed(0)
    boxes = torch.tensor([[0, 0, 400, 300], [398.5, 10, 400, 12], [50, 50, 90, 110], [0, 299, 1, 300]])
    found = torch.stack([_jitter_boxes(boxes, (300, 400)) for _ in range(500)])
    assert (found[:, 0] == torch.tensor([0, 0, 400, 300])).all()
    assert (found.amin((0, 1)) >= 0).all()
    assert (found.amax((0, 1)) <= torch.tensor([400, 300, 400, 300])).all()
    assert (found[..., 2:] - found[..., :2] > 1.99).all()
    apart = (found[:, 3] - boxes[2]) / torch.tensor([40, 60, 40, 60])
    variance = (torch.tensor([0.02, 0.15]) ** 2 + 0.02 * 0.15 / 2).sum() / 3  # mean of s^2, s from 0.02 to 0.15
    assert apart.abs().max() <= 0.3
    torch.testing.assert_close(
        apart.std(), (0.92 * variance).sqrt(), atol=0.006, rtol=0
    )  # 0.92: variance of a normal distribution clipped to 2


def test_code_loss_ignores_boxes_with_unknown_actions() -> None:
    for index in range(40):
        scene = render_training_scene((7, index))
        actions, colors = collect_vocabulary([scene])
        _, target = load_example(scene, actions, colors, np.random.default_rng(0))
        if not target["known"].all():
            break
    codes = build_auxiliary_heads(actions, colors)["code"]
    features = torch.rand(len(scene.labels) + 1, 256, requires_grad=True)
    slow, num_known = 0.0, 0
    for feature, code, known in zip(features[1:], codes(target)[1:], target["known"].tolist(), strict=True):
        if known:
            slow, num_known = slow + 1 - feature @ code / feature.norm(), num_known + 1
    slow = slow / num_known + 0.2 * (1 - features[0] @ codes(target)[0] / features[0].norm())
    found = _compute_code_loss((features,), codes, [target])
    torch.testing.assert_close(found, slow)
    found.backward()
    assert not features.grad[1:][~target["known"]].any()
    assert not target["known"].all(), "every action of the scene is known"
    assert features.grad.any(dim=1).sum() == num_known + 1
