"""The Visual-Genome model: the ports' way against ours, in one run, one thread."""

from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torchvision.ops import box_iou, nms, roi_pool

from data.demo import compose, paint
from extractors.bottom_up.extractor import BottomUpConfig, BottomUpExtractor, net_size
from extractors.bottom_up.model import BottomUp, plain_pool5
from extractors.bottom_up.proposals import grid, move
from extractors.bottom_up.weights import save
from tests.bench.common import cpu_of
from tests.calibrated_bottom_up import calibrated


@torch.inference_mode()
def port_style(model: BottomUp, prepared: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Boxes in pixels and features of 36 regions as the ports compute them: float32, NCHW, an NMS for each class."""
    scale = net_size(*size)[2]
    maps = model.maps(prepared[None])
    logits, deltas = model.rpn(maps)
    boxes = move(grid(model.rpn.anchors, *maps.shape[2:]), deltas[0], (prepared.shape[2], prepared.shape[1]))
    large = ((boxes[:, 2:] - boxes[:, :2] + 1) >= 16 * scale).all(1)
    boxes, scores = boxes[large], logits[0][large]
    order = scores.argsort(descending=True)[:6000]
    one = torch.tensor([0, 0, 1, 1])
    rois = boxes[order][nms(boxes[order] + one, scores[order], 0.7)[:300]]
    features = plain_pool5(model.res5, roi_pool(maps, [rois], 14, 1 / 16))
    probabilities = model.heads(features).classes
    boxes, confidence = rois / scale, torch.zeros(len(rois))
    for label in range(1, probabilities.shape[1]):
        own = probabilities[:, label]
        keep = nms(boxes + one, own, 0.3)
        confidence[keep] = torch.maximum(confidence[keep], own[keep])
    keep = (confidence >= 0.2).nonzero().flatten()
    if len(keep) != 36:
        keep = confidence.argsort(descending=True)[:36]
    return boxes[keep], features[keep]


def bottom_up(folder: Path, images: int = 4) -> None:
    """CPU seconds an image, and how far the regions of the quick way are those of the exact one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in a worker process
    model = calibrated()
    save(model, folder / "random.safetensors", {})
    quick, exact = (
        BottomUpExtractor(BottomUpConfig(kind="bottom-up", weights=folder / "random.safetensors", exact=how))
        for how in (False, True)
    )
    pictures = [paint(compose(5, i))[0] for i in range(images)]
    prepared = [exact.prepare(picture) for picture in pictures]
    ways = {
        "port style: float32, NCHW, a loop over classes": lambda i: port_style(
            model, prepared[i].input, prepared[i].size
        ),
        "ours, exact": lambda i: exact([pictures[i]])[0],
        f"ours, {quick.fingerprint['arithmetic']}": lambda i: quick([pictures[i]])[0],
    }
    spent = {name: [] for name in ways}
    found = {name: [] for name in ways}
    for way in ways.values():
        way(0)  # warms up
    for i in range(images):
        for name, way in ways.items():
            seconds, rows = cpu_of(lambda way=way, i=i: way(i))
            spent[name].append(seconds)
            found[name].append(rows)
    truth, *others = found.values()
    table = Table(
        "what", "CPU s an image", "times", "same boxes", "least cosine", title="bottom-up, 400x300 -> 800x600"
    )
    first = float(np.median(spent[next(iter(spent))]))
    agreed = [("", ""), *(agreement(truth, regions) for regions in others)]
    for (name, seconds), same in zip(spent.items(), agreed, strict=True):
        table.add_row(name, f"{np.median(seconds):.2f}", f"{first / np.median(seconds):.2f}", *same)
    Console(width=120).print(table)
    torch.set_num_threads(threads)


def agreement(truth: list, regions: list) -> tuple[str, str]:
    """Share of the boxes that are there again (overlap above 0.99), and the least cosine of their features."""
    same, cosines = [], []
    for (boxes, features), mine in zip(truth, regions, strict=True):
        overlap, place = box_iou(boxes, torch.from_numpy(mine.boxes)).max(1)
        same += (overlap > 0.99).tolist()
        theirs = torch.from_numpy(mine.features[place]).float()
        cosines += torch.cosine_similarity(features, theirs)[overlap > 0.99].tolist()
    return f"{100 * np.mean(same):.1f} %", f"{min(cosines):.6f}"
