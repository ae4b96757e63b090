"""Load and convert published weights of the bottom-up model; used by `BottomUpExtractor` and `tern weights`.

The layout of a file is recognized by the shapes of its tensors. There are two families of layouts, both with
detectron2's style of names. MILVLG's bottom-up-attention.pytorch (.pth) keeps Caffe's numbers. airsplay's
py-bottom-up-attention (.pkl) and Hugging Face's frcnn-vg-finetuned (.bin) keep detectron2's numbers: the background
last, one logit per anchor, deltas scaled by (10, 10, 5, 5).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import torch
from safetensors.torch import save_file
from torch import Tensor

from data.io import atomic_write, sha256_file
from extractors.bottom_up.model import ANCHORS, BLOCKS, BottomUpRCNN
from extractors.bottom_up.proposals import RATIOS, SCALES, caffe_anchors
from extractors.config import Anchors
from extractors.nn.state_dict import (
    load_state_dict_file,
    load_state_dict_strict,
    parse_names,
    read_safetensors_metadata,
    state_sha256,
)

MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green, red, 0..255
OBJECTNESS = "proposal_generator.rpn_head.objectness_logits"
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
HEADS = "roi_heads.box_predictor."
ATTRIBUTE_HEAD = (  # name in this model; in MILVLG's; in airsplay's and Hugging Face's
    ("cls_embed", "cls_embed", "cls_embedding"),
    ("attr_fc", "attr_linear1", "fc_attr"),
    ("attr_score", "attr_linear2", "attr_score"),
)
BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # detectron2's BBOX_REG_WEIGHTS of the box head


def load_bottom_up(
    path: Path, anchors: Anchors | None, vocabulary: Path | None
) -> tuple[BottomUpRCNN, tuple[str, ...], tuple[str, ...]]:
    """Load the bottom-up model from a weights file of any known layout.

    Args:
        path: Weights file.
        anchors: Anchors of a port's file that does not contain any.
        vocabulary: Folder with objects_vocab.txt and attributes_vocab.txt; None uses the names in the file.

    Returns:
        The model in eval mode and float32, its class names, and its attribute names; () where there are none.

    Raises:
        FileNotFoundError: The file or the vocabulary does not exist.
        ValueError: The file is of another model or was changed, its anchors are unknown, or the vocabulary has another
            length.
    """
    state, _ = load_state_dict_file(path)
    metadata = read_safetensors_metadata(path) if path.suffix == ".safetensors" else {}
    if "rpn.anchors" not in state:
        state = to_canonical_state_dict(state, str(path), anchors)
    num_classes = len(state["cls_score.bias"]) - 1
    num_attributes = len(state["attr_score.bias"]) - 1 if "attr_score.bias" in state else 0
    model = BottomUpRCNN(num_classes, num_attributes)
    load_state_dict_strict(model, state, str(path))
    sha256 = state_sha256(model)
    if metadata.get("sha256", sha256) != sha256:
        raise ValueError(
            f"{path} contains weights of sha256 {sha256}, but its header lists {metadata['sha256']}. Convert the "
            "original file again."
        )
    classes, attributes = (parse_names(metadata.get(key, "[]"), key, path) for key in ("classes", "attributes"))
    if vocabulary is not None:
        classes = read_vocabulary(vocabulary / "objects_vocab.txt")
        attributes = read_vocabulary(vocabulary / "attributes_vocab.txt") if num_attributes else ()
    for kind, names, count in (("classes", classes, num_classes), ("attributes", attributes, num_attributes)):
        if names and count and len(names) != count:
            raise ValueError(
                f"{vocabulary or path} lists {len(names)} {kind}, but the weights have {count}. Set `vocabulary_dir` "
                "to the folder of the dataset that they were trained on."
            )
    return model.eval(), classes, attributes if num_attributes else ()


def convert_weights(source: Path, target: Path, anchors: Anchors | None = None, vocabulary: Path | None = None) -> str:
    """Convert weights of any known layout to a .safetensors file.

    Its header has hash, origin and names.

    Args:
        source: Weights file to read.
        target: File to write.
        anchors: Anchors of a port's file that does not contain any.
        vocabulary: Folder with objects_vocab.txt and attributes_vocab.txt; None uses the names in the file.

    Returns:
        SHA-256 of the tensors (`state_sha256`), which is checked whenever the file is loaded.

    Raises:
        FileNotFoundError: As `load_bottom_up`.
        ValueError: As `load_bottom_up`.
    """
    model, classes, attributes = load_bottom_up(source, anchors, vocabulary)
    names = {"classes": json.dumps(classes), "attributes": json.dumps(attributes)}
    metadata = read_safetensors_metadata(source) if source.suffix == ".safetensors" else {}
    origin = {"origin": source.name, "origin_sha256": sha256_file(source)}
    return save_weights(model, target, {key: metadata.get(key, value) for key, value in origin.items()} | names)


def save_weights(model: BottomUpRCNN, path: Path, metadata: dict[str, str]) -> str:
    """Save the tensors of a model as .safetensors.

    Args:
        model: Model to save.
        path: File to write.
        metadata: Entries of the header in addition to the hash.

    Returns:
        SHA-256 of the tensors (`state_sha256`).
    """
    sha256 = state_sha256(model)
    with atomic_write(path) as temporary:
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, temporary, {"model": "bottom-up", "sha256": sha256, **metadata})
        temporary.chmod(0o644)  # safetensors creates files that only their owner can read
    return sha256


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """Read the first name on each line of a vocabulary, in lower case.

    A line may have several names, such as `multi colored,multi-colored`.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"The vocabulary {path} does not exist. Set `vocabulary_dir` to the folder of objects_vocab.txt and "
            "attributes_vocab.txt."
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(",")[0].strip().lower() for line in lines)


def to_canonical_state_dict(state: dict[str, Tensor], source: str, anchors: Anchors | None = None) -> dict[str, Tensor]:
    """Convert the state dict of a port to the names of `BottomUpRCNN` and to Caffe's numbers, in float32.

    Args:
        state: Tensors by the parameter names of the port.
        source: Name of the file, for error messages.
        anchors: Anchors of a file that does not contain any.

    Raises:
        ValueError: The layout is unknown, or a tensor does not belong to the bottom-up model.
    """
    state = {
        key.removeprefix("module."): value.float()
        for key, value in state.items()
        if not key.endswith("num_batches_tracked")
    }
    is_caffe = _has_caffe_layout(state, source)
    _check_variant(state, source)
    canonical = {new: state.pop(old) for old in list(state) if (new := _convert_name(old))}
    for kind in ("weight", "bias"):
        rows = state.pop(f"{OBJECTNESS}.{kind}")
        # A softmax over two classes orders anchors as the difference of their logits does.
        canonical[f"rpn.objectness.{kind}"] = rows[ANCHORS:] - rows[:ANCHORS] if is_caffe else rows
    stored_anchors = state.pop(CELL_ANCHORS) if CELL_ANCHORS in state else None
    canonical["rpn.anchors"] = _convert_anchors(stored_anchors, is_caffe, anchors, source)
    for kind in ("weight", "bias"):
        canonical[f"cls_score.{kind}"] = _move_background_first(state.pop(f"{HEADS}cls_score.{kind}"), is_caffe)
        canonical[f"bbox_pred.{kind}"] = _unscale_deltas(state.pop(f"{HEADS}bbox_pred.{kind}"), is_caffe)
    for new, milvlg, airsplay in ATTRIBUTE_HEAD:
        for kind in ("weight", "bias"):
            old = f"{HEADS}{milvlg if is_caffe else airsplay}.{kind}"
            if old in state:
                rows = state.pop(old)
                canonical[f"{new}.{kind}"] = rows if new == "attr_fc" else _move_background_first(rows, is_caffe)
    unknown = sorted(set(state) - {"pixel_mean", "pixel_std"})  # `_check_variant` checked these two
    if unknown:
        raise ValueError(
            f"{source} contains {unknown[0]!r}, which the bottom-up model does not have. Pass the weights of that "
            "model."
        )
    return canonical


def _has_caffe_layout(state: dict[str, Tensor], source: str) -> bool:
    """Return whether the weights have Caffe's layout (MILVLG).

    Else it is detectron2's (airsplay, Hugging Face). Three shapes must agree.
    """
    num_rows = {}
    for key in (OBJECTNESS, f"{HEADS}cls_score", f"{HEADS}bbox_pred"):
        for kind, dims in (("weight", (2, 4)), ("bias", (1,))):
            value = state.get(f"{key}.{kind}")
            if value is None or value.ndim not in dims:
                content = "nothing" if value is None else tuple(value.shape)
                raise ValueError(
                    f"{source} contains {content} for {key}.{kind}, so it is of no known layout of the bottom-up "
                    "model. Pass a file of one of the ports in docs/how-to/region-features.md."
                )
        num_rows[key.rsplit(".", 1)[1]] = len(state[f"{key}.weight"])
    classes = num_rows["cls_score"]
    facts = (num_rows["objectness_logits"], num_rows["bbox_pred"], f"{HEADS}attr_linear1.weight" in state)
    if facts[:2] == (2 * ANCHORS, 4 * classes) and f"{HEADS}fc_attr.weight" not in state:
        return True
    if facts == (ANCHORS, 4 * (classes - 1), False):
        return False
    raise ValueError(
        f"{source} is of no known layout: {facts[0]} objectness rows, {classes} class rows, {facts[1]} box rows,"
        f" {'attr_linear1' if facts[2] else 'fc_attr or no attribute head'}. Pass a file with 24, n, 4n (MILVLG) or "
        "12, n, 4(n - 1) (airsplay, Hugging Face) rows."
    )


def _check_variant(state: dict[str, Tensor], source: str) -> None:
    """Raise ValueError for similar models with another depth or other means."""
    for stage, blocks in zip(("res2", "res3", "res4"), BLOCKS, strict=True):
        numbers = {int(m[1]) for key in state if (m := re.match(rf"backbone\.{stage}\.(\d+)\.", key))}
        if numbers != set(range(blocks)):
            raise ValueError(
                f"{source} has {len(numbers)} blocks in {stage}, but ResNet-101 has {blocks}. Pass the weights of the "
                "bottom-up model."
            )
    for key, expected in (("pixel_mean", MEAN), ("pixel_std", (1.0, 1.0, 1.0))):
        values = state[key].flatten().tolist() if key in state else list(expected)
        if len(values) != 3 or max(abs(x - y) for x, y in zip(values, expected, strict=True)) > 1e-2:
            raise ValueError(
                f"{source} was trained with the {key} {values}, not {expected}. Pass the weights of the bottom-up "
                "model."
            )


def _convert_name(key: str) -> str | None:
    """Return this model's name of a convolution or norm; None for other keys.

    It converts the keys of backbone, res5 and proposal head.
    """
    name = re.sub(r"^backbone\.|^roi_heads\.(?=res5\.)", "", key)
    name = re.sub(r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv.", name)
    name = re.sub(r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas.", name)
    name = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)
    name = name.replace(".shortcut.weight", ".downsample.0.weight").replace(".shortcut.norm.", ".downsample.1.")
    return name if re.match(r"(stem|res[2-5]|rpn)\.", name) else None


def _convert_anchors(stored: Tensor | None, is_caffe: bool, anchors: Anchors | None, source: str) -> Tensor:
    """Return the anchors in the order of the file's channels, in Caffe's convention.

    In that convention x2 and y2 are included.

    Returns:
        (12, 4) float32 in network pixels.
    """
    if stored is not None and stored.shape != (ANCHORS, 4):
        raise ValueError(
            f"{source}: {CELL_ANCHORS} is {tuple(stored.shape)}, not {(ANCHORS, 4)}. Pass the weights of the bottom-up "
            "model."
        )
    if stored is not None:
        same = {tuple(row) for row in stored.tolist()} == {tuple(row) for row in caffe_anchors().tolist()}
        return stored if is_caffe or same else stored - stored.new_tensor([0, 0, 1, 1])
    if anchors == "caffe":
        # Caffe's channels are ratio-major. airsplay's code gives size-major anchors to a file without anchors.
        return caffe_anchors() if is_caffe else caffe_anchors().view(3, 4, 4).transpose(0, 1).reshape(ANCHORS, 4)
    if anchors == "detectron2" and not is_caffe:
        return _detectron2_anchors()
    if anchors is not None:
        raise ValueError(
            f"{source} has Caffe's two logits per anchor, so its anchors cannot be those of {anchors}. Set `anchors` "
            'to "caffe".'
        )
    raise ValueError(
        f"{source} does not contain {CELL_ANCHORS}, and wrong anchors would give other regions without an error. Set "
        f"`anchors` to those that it was trained or converted with: {' or '.join(get_args(Anchors))} (caffe: rounded, "
        "centered at 7.5)."
    )


def _detectron2_anchors() -> Tensor:
    """Return detectron2's anchors for sizes 64 to 512, size-major.

    They are not rounded, and centered on the corner of the cell.

    Returns:
        (12, 4) float32 in network pixels; x2 and y2 are included, as in Caffe.
    """
    anchors = []
    for scale in SCALES:
        for ratio in RATIOS:
            half_w, half_h = 8 * scale / ratio**0.5, 8 * scale * ratio**0.5
            anchors.append([-half_w, -half_h, half_w - 1, half_h - 1])
    return torch.tensor(anchors)


def _move_background_first(rows: Tensor, is_caffe: bool) -> Tensor:
    """Return rows by class with the background first; in detectron2's layout it is last."""
    return rows if is_caffe else rows.roll(1, 0)


def _unscale_deltas(rows: Tensor, is_caffe: bool) -> Tensor:
    """Return rows of four unscaled deltas per class, the background's first.

    The deltas of the background are zeros where the file has none.
    """
    if is_caffe:
        return rows
    scale = rows.new_tensor(BBOX_REG_WEIGHTS)
    unscaled = rows.unflatten(0, (-1, 4)) / (scale[:, None] if rows.ndim == 2 else scale)
    return torch.cat([torch.zeros_like(unscaled[:1]), unscaled]).flatten(0, 1)
