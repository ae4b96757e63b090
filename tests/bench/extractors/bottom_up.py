"""The Visual Genome model as other PyTorch ports compute it and as this project does, in one run on one thread."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import box_iou, nms, roi_pool

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from extractors.bottom_up.extractor import BottomUpExtractor, network_input_size
from extractors.bottom_up.model import BottomUpRCNN, pool5_features
from extractors.bottom_up.proposals import apply_deltas, make_anchor_grid
from extractors.bottom_up.weights import save_weights
from extractors.config import BottomUpConfig
from tests.bench.common import cpu_of
from tests.helpers.random_bottom_up import calibrated

PORT = "port style: float32, NCHW, a loop over classes"


class Rows(NamedTuple):
    """Boxes in pixels and features of the selected regions."""

    boxes: np.ndarray
    features: np.ndarray


@torch.inference_mode()
def port_style(model: BottomUpRCNN, prepared: Tensor, size: tuple[int, int]) -> Rows:
    """Compute boxes in pixels and features of 36 regions as other ports do: float32, NCHW, one NMS per class."""
    scale = network_input_size(*size)[2]
    maps = model.backbone_features(prepared[None])
    logits, deltas = model.rpn(maps)
    boxes = apply_deltas(
        make_anchor_grid(model.rpn.anchors, *maps.shape[2:]), deltas[0], (prepared.shape[2], prepared.shape[1])
    )
    large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= 16 * scale).all(1)
    boxes, scores = boxes[large], logits[0][large]
    order = scores.argsort(descending=True)[:6000]
    last_pixel = torch.tensor([0, 0, 1, 1])
    rois = boxes[order][nms(boxes[order] + last_pixel, scores[order], 0.7)[:300]]
    features = pool5_features(model.res5, roi_pool(maps, [rois], 14, 1 / 16))
    probabilities = model.classify(features).classes
    boxes, confidence = rois / scale, torch.zeros(len(rois))
    for label in range(1, probabilities.shape[1]):
        class_scores = probabilities[:, label]
        keep = nms(boxes + last_pixel, class_scores, 0.3)
        confidence[keep] = torch.maximum(confidence[keep], class_scores[keep])
    keep = (confidence >= 0.2).nonzero().flatten()
    if len(keep) != 36:
        keep = confidence.argsort(descending=True)[:36]
    return Rows(boxes[keep].numpy(), features[keep].numpy())


def bottom_up(folder: Path, images: int = 4) -> None:
    """Print CPU seconds per image, and how many regions in half precision equal those in full precision."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process
    model = calibrated()
    save_weights(model, folder / "random.safetensors", {})

    def extractor(exact: bool, fewest: int, most: int) -> BottomUpExtractor:
        limits = {"min_regions": fewest, "max_regions": most}
        return BottomUpExtractor(BottomUpConfig(weights=folder / "random.safetensors", full_precision=exact, **limits))

    images_to_extract = [render_scene(compose_scene(5, i))[0] for i in range(images)]
    extractors = {
        f"ours, {e.recipe['dtype']}, {fewest} to {most}": e
        for fewest, most in ((36, 36), (10, 100))
        for e in (extractor(True, fewest, most), extractor(False, fewest, most))
    }
    prepared = [next(iter(extractors.values())).preprocess(scene_image) for scene_image in images_to_extract]
    results_by_name: dict[str, list] = {
        PORT: [cpu_of(lambda image=image: port_style(model, image.input, image.size)) for image in prepared]
    }
    for name, run_extractor in extractors.items():
        run_extractor([images_to_extract[0]])  # warms up
        results_by_name[name] = [
            cpu_of(lambda scene_image=scene_image, run_extractor=run_extractor: run_extractor([scene_image])[0])
            for scene_image in images_to_extract
        ]
    table = Table(
        "what", "CPU s per image", "times", "same boxes", "minimum cosine", title="bottom-up, 400x300 -> 800x600"
    )
    reference_seconds = float(np.median([seconds for seconds, _ in results_by_name[PORT]]))
    for name, results in results_by_name.items():
        seconds = float(np.median([spent for spent, _ in results]))
        truth = PORT if name.endswith("36 to 36") else "ours, float32, 10 to 100"
        same = (
            ("", "")
            if name in (PORT, truth)
            else agreement(*([r for _, r in results_by_name[n]] for n in (truth, name)))
        )
        table.add_row(name, f"{seconds:.2f}", f"{reference_seconds / seconds:.2f}", *same)
    Console(width=120).print(table)
    torch.set_num_threads(threads)


def agreement(truth: list, regions: list) -> tuple[str, str]:
    """Return the share of boxes with an equal box (overlap above 0.99), and the minimum cosine of their features."""
    same, cosines = [], []
    for expected, actual in zip(truth, regions, strict=True):
        overlap, best = box_iou(torch.from_numpy(expected.boxes), torch.from_numpy(actual.boxes)).max(1)
        same += (overlap > 0.99).tolist()
        pair = (torch.from_numpy(x).float() for x in (expected.features, actual.features[best]))
        cosines += torch.cosine_similarity(*pair)[overlap > 0.99].tolist()
    return f"{100 * np.mean(same):.1f} %", f"{min(cosines):.6f}"
