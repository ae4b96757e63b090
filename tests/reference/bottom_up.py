"""Reference implementation of the bottom-up model, one box at a time, for a state dict with MILVLG's names.

It follows test.prototxt of models/vg/ResNet-101/faster_rcnn_end2end_final, lib/rpn, lib/fast_rcnn and
tools/generate_tsv.py of the bottom-up-attention repository, and shares no code with the extractor.
"""

import numpy as np
import torch
from torch.nn import functional as F


def overlap(a, b):
    """Compute the IoU of two boxes that include their last pixel."""
    w = min(a[2], b[2]) - max(a[0], b[0]) + 1
    h = min(a[3], b[3]) - max(a[1], b[1]) + 1
    common = max(w, 0) * max(h, 0)
    area = [(x[2] - x[0] + 1) * (x[3] - x[1] + 1) for x in (a, b)]
    return common / (area[0] + area[1] - common)


def nms(boxes, scores, threshold, limit=10**9):
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: -scores[i]):
        if all(overlap(boxes[i], boxes[j]) < threshold for j in kept):
            kept.append(i)
        if len(kept) == limit:
            break
    return kept


def proposals(foreground, deltas, anchors, net_w, net_h, scale, limit):
    """Select proposals: foreground (h, w, 12), deltas (h, w, 12, 4), anchors (12, 4) -> list of boxes, best first."""
    boxes, scores = [], []
    for y, x, a in np.ndindex(foreground.shape):
        x1, y1, x2, y2 = anchors[a] + np.array([16 * x, 16 * y, 16 * x, 16 * y])
        w, h = x2 - x1 + 1, y2 - y1 + 1
        dx, dy, dw, dh = deltas[y, x, a]
        cx, cy, w2, h2 = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        box = [cx - w2 / 2, cy - h2 / 2, cx + w2 / 2, cy + h2 / 2]
        box = [min(max(side, 0), last) for side, last in zip(box, [net_w - 1, net_h - 1] * 2, strict=True)]
        if box[2] - box[0] + 1 >= 16 * scale and box[3] - box[1] + 1 >= 16 * scale:
            boxes.append(box)
            scores.append(foreground[y, x, a])
    order = sorted(range(len(boxes)), key=lambda i: -scores[i])[:6000]
    boxes, scores = [boxes[i] for i in order], [scores[i] for i in order]
    return [boxes[i] for i in nms(boxes, scores, 0.7, limit)]


def roi_pool(maps, box):
    """Pool one RoI: maps (channels, h, w), box in network pixels -> (channels, 14, 14)."""
    channels, height, width = maps.shape
    x1, y1, x2, y2 = (int(np.floor(side / 16 + 0.5)) for side in box)
    tall, wide = max(y2 - y1 + 1, 1), max(x2 - x1 + 1, 1)
    out = np.zeros((channels, 14, 14), maps.dtype)
    for i, j in np.ndindex(14, 14):
        top, bottom = y1 + i * tall // 14, y1 + -(-(i + 1) * tall // 14)
        left, right = x1 + j * wide // 14, x1 + -(-(j + 1) * wide // 14)
        part = maps[:, max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        if part.size:
            out[:, i, j] = part.max((1, 2))
    return out


def kept_rows(boxes, scores, min_regions, max_regions, threshold=0.2):
    """Select rows: boxes (n, 4) in pixels, scores (n, 1 + classes), background first -> rows in the stored order."""
    best = np.zeros(len(boxes))
    for label in range(1, scores.shape[1]):
        for i in nms(boxes, scores[:, label], 0.3):
            best[i] = max(best[i], scores[i, label])
    rows = [i for i in range(len(boxes)) if best[i] >= threshold]
    order = sorted(range(len(boxes)), key=lambda i: -best[i])
    return order[:min_regions] if len(rows) < min_regions else order[:max_regions] if len(rows) > max_regions else rows


def norm(x, state, name):
    values = [state[f"{name}.norm.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
    return F.batch_norm(x, *values, training=False, eps=1e-5)


def block(x, state, name, stride, dilation=1):
    """Compute one bottleneck; the stride is in the first 1x1 convolution and in the shortcut."""
    out = F.relu(norm(F.conv2d(x, state[f"{name}.conv1.weight"], stride=stride), state, f"{name}.conv1"))
    weight = state[f"{name}.conv2.weight"]
    out = F.relu(norm(F.conv2d(out, weight, padding=dilation, dilation=dilation), state, f"{name}.conv2"))
    out = norm(F.conv2d(out, state[f"{name}.conv3.weight"]), state, f"{name}.conv3")
    if f"{name}.shortcut.weight" in state:
        x = norm(F.conv2d(x, state[f"{name}.shortcut.weight"], stride=stride), state, f"{name}.shortcut")
    return F.relu(out + x)


def res4(blob, state):
    """Compute res4: (1, 3, h, w) -> (1, 1024, h/16, w/16)."""
    x = F.conv2d(blob, state["backbone.stem.conv1.weight"], stride=2, padding=3)
    x = F.relu(norm(x, state, "backbone.stem.conv1"))
    # Caffe's max-pool: 3x3, stride 2, no padding, one window for every start inside the map.
    right, below = (int(2 * np.ceil((side - 3) / 2) + 3 - side) for side in (x.shape[3], x.shape[2]))
    x = F.max_pool2d(F.pad(x, (0, right, 0, below), value=-np.inf), 3, 2)
    for stage, count in (("res2", 3), ("res3", 4), ("res4", 23)):
        for i in range(count):
            x = block(x, state, f"backbone.{stage}.{i}", 2 if i == 0 and stage != "res2" else 1)
    return x


@torch.no_grad()
def all_proposals(blob, state, anchors, size, scale, limit):
    """Compute all proposals of one image: blob (1, 3, network h, network w), size (w, h) in pixels."""
    maps = res4(blob, state)
    head = {key.rsplit("rpn_head.", 1)[1]: value for key, value in state.items() if "rpn_head." in key}
    hidden = F.relu(F.conv2d(maps, head["conv.weight"], head["conv.bias"], padding=1))
    logits = F.conv2d(hidden, head["objectness_logits.weight"], head["objectness_logits.bias"])[0]  # (24, h, w)
    foreground = torch.stack([logits[:12], logits[12:]]).double().softmax(0)[1].permute(1, 2, 0)
    deltas = F.conv2d(hidden, head["anchor_deltas.weight"], head["anchor_deltas.bias"])[0]
    deltas = deltas.permute(1, 2, 0).unflatten(2, (12, 4))
    net_h, net_w = blob.shape[2:]
    rois = proposals(foreground.numpy(), deltas.numpy(), anchors, net_w, net_h, scale, limit)
    x = torch.from_numpy(np.stack([roi_pool(maps[0].numpy(), box) for box in rois]))
    for i in range(3):
        x = block(x, state, f"roi_heads.res5.{i}", 1, dilation=2)
    pool5 = x.mean((2, 3))
    box = {key.rsplit("box_predictor.", 1)[1]: value for key, value in state.items() if "box_predictor." in key}
    logits = F.linear(pool5, box["cls_score.weight"], box["cls_score.bias"])
    class_embedding = box["cls_embed.weight"][logits.argmax(1)]
    hidden = F.relu(
        F.linear(torch.cat([pool5, class_embedding], 1), box["attr_linear1.weight"], box["attr_linear1.bias"])
    )
    attributes = F.linear(hidden, box["attr_linear2.weight"], box["attr_linear2.bias"]).softmax(1).numpy()
    scores, boxes = logits.softmax(1).numpy(), np.array(rois) / scale
    return {
        "class_scores": scores,
        "features": pool5.numpy(),
        "boxes": boxes,
        "class_ids": scores[:, 1:].argmax(1),
        "scores": scores[:, 1:].max(1),
        "attr_ids": attributes[:, 1:].argmax(1),
        "attr_scores": attributes[:, 1:].max(1),
        "regressed": _regress_boxes(pool5, box, boxes, scores, size),
    }


def stored_rows(found, min_regions, max_regions):
    """Select the stored rows of `all_proposals`."""
    rows = kept_rows(found["boxes"], found["class_scores"], min_regions, max_regions)
    return {name: values[rows] for name, values in found.items()}


def _regress_boxes(pool5, box, boxes, scores, size):
    deltas = F.linear(pool5, box["bbox_pred.weight"], box["bbox_pred.bias"]).numpy()
    found = []
    for i in range(len(boxes)):
        label = scores[i, 1:].argmax() + 1
        (x1, y1, x2, y2), (dx, dy, dw, dh) = boxes[i], deltas[i, 4 * label : 4 * label + 4]
        w, h = x2 - x1 + 1, y2 - y1 + 1
        cx, cy, w2, h2 = x1 + w / 2 + dx * w, y1 + h / 2 + dy * h, w * np.exp(dw), h * np.exp(dh)
        sides = zip([cx - w2 / 2, cy - h2 / 2, cx + w2 / 2, cy + h2 / 2], [*size, *size], strict=True)
        found.append([min(max(side, 0), last - 1) for side, last in sides])
    return np.array(found)
