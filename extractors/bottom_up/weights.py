"""The weights people have, in the layouts of the ports, into this model's: recognized by their shapes, never guessed.

Two families of names exist, both in detectron2's style. MILVLG's bottom-up-attention.pytorch (.pth) keeps Caffe's
numbers; airsplay's py-bottom-up-attention (.pkl) and Hugging Face's frcnn-vg-finetuned (.bin) keep detectron2's: the
background last, one logit an anchor, deltas scaled by (10, 10, 5, 5).
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
    read_safetensors_metadata,
    state_sha256,
)

MEAN = (102.9801, 115.9465, 122.7717)  # of blue, green, red, 0..255
OBJECTNESS = "proposal_generator.rpn_head.objectness_logits"
CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
HEADS = "roi_heads.box_predictor."
# Name in this model, in MILVLG's, in airsplay's and Hugging Face's.
ATTRIBUTE_HEAD = (
    ("cls_embed", "cls_embed", "cls_embedding"),
    ("attr_fc", "attr_linear1", "fc_attr"),
    ("attr_score", "attr_linear2", "attr_score"),
)
BBOX_REG_WEIGHTS = (10.0, 10.0, 5.0, 5.0)  # detectron2's BBOX_REG_WEIGHTS of the box head


def load_bottom_up(
    path: Path, anchors: Anchors | None, vocabulary: Path | None
) -> tuple[BottomUpRCNN, tuple[str, ...], tuple[str, ...]]:
    """The model in eval mode, float32, and the names of its classes and attributes, () where there are none.

    Raises FileNotFoundError; ValueError for another model's file, a changed one, anchors that nobody names, or a
    vocabulary of another length.
    """
    state, _ = load_state_dict_file(path)
    about = read_safetensors_metadata(path) if path.suffix == ".safetensors" else {}
    if "rpn.anchors" not in state:
        state = to_canonical_state_dict(state, str(path), anchors)
    attributes = len(state["attr_score.bias"]) - 1 if "attr_score.bias" in state else 0
    model = BottomUpRCNN(len(state["cls_score.bias"]) - 1, attributes)
    load_state_dict_strict(model, state, str(path))
    if about.get("sha256", (found := state_sha256(model))) != found:
        raise ValueError(f"{path} holds weights of sha256 {found}, its header says {about['sha256']}: convert again")
    names = [tuple(json.loads(about.get(key, "[]"))) for key in ("classes", "attributes")]
    if vocabulary is not None:
        kinds = ("objects", "attributes") if attributes else ("objects",)
        names = [*(read_vocabulary(vocabulary / f"{kind}_vocab.txt") for kind in kinds), ()][:2]
    for kind, found_names, count in zip(
        ("classes", "attributes"), names, (len(state["cls_score.bias"]) - 1, attributes), strict=True
    ):
        if found_names and count and len(found_names) != count:
            raise ValueError(f"{vocabulary or path} names {len(found_names)} {kind}, the weights tell {count} apart")
    return model.eval(), names[0], names[1] if attributes else ()


def convert_weights(source: Path, target: Path, anchors: Anchors | None = None, vocabulary: Path | None = None) -> str:
    """Write the weights of any known layout as one .safetensors, with hash, origin and names. Returns the sha256.

    The hash is that of the tensors (`extractors.state.state_sha256`), checked whenever they are loaded.
    Raises what `load` raises.
    """
    model, classes, attributes = load_bottom_up(source, anchors, vocabulary)
    names = {"classes": json.dumps(classes), "attributes": json.dumps(attributes)}
    about = read_safetensors_metadata(source) if source.suffix == ".safetensors" else {}
    origin = {"origin": source.name, "origin_sha256": sha256_file(source)}
    return save_weights(model, target, {key: about.get(key, value) for key, value in origin.items()} | names)


def save_weights(model: BottomUpRCNN, path: Path, about: dict[str, str]) -> str:
    """Write a model's tensors as .safetensors with their hash, and `about`, in the header. Returns the hash."""
    found = state_sha256(model)
    with atomic_write(path) as temporary:
        state = {key: value.contiguous() for key, value in model.state_dict().items()}
        save_file(state, temporary, {"model": "bottom-up", "sha256": found, **about})
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone
    return found


def read_vocabulary(path: Path) -> tuple[str, ...]:
    """The first name on each line of a vocabulary such as `multi colored,multi-colored`."""
    if not path.is_file():
        raise FileNotFoundError(
            f"no vocabulary at {path}: give the folder of objects_vocab.txt and attributes_vocab.txt"
        )
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(line.split(",")[0].strip().lower() for line in lines)


def to_canonical_state_dict(state: dict[str, Tensor], source: str, anchors: Anchors | None = None) -> dict[str, Tensor]:
    """A port's state dict under this model's names, in Caffe's numbers, float32; ValueError names what is odd."""
    kept = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    state = {key.removeprefix("module."): value.float() for key, value in kept.items()}
    caffe = _is_caffes(state, source)
    _check_variant(state, source)
    found = {new: state.pop(old) for old in list(state) if (new := _renamed(old))}
    for kind in ("weight", "bias"):
        rows = state.pop(f"{OBJECTNESS}.{kind}")
        # Two classes by softmax order anchors as the difference of their logits does.
        found[f"rpn.objectness.{kind}"] = rows[ANCHORS:] - rows[:ANCHORS] if caffe else rows
    found["rpn.anchors"] = _anchors(state.pop(CELL_ANCHORS, None), caffe, anchors, source)
    for kind in ("weight", "bias"):
        found[f"cls_score.{kind}"] = _background_first(state.pop(f"{HEADS}cls_score.{kind}"), caffe)
        found[f"bbox_pred.{kind}"] = _plain_deltas(state.pop(f"{HEADS}bbox_pred.{kind}"), caffe)
    for new, milvlg, pbua in ATTRIBUTE_HEAD:
        for kind in ("weight", "bias"):
            rows = state.pop(f"{HEADS}{milvlg if caffe else pbua}.{kind}", None)
            if rows is not None:
                found[f"{new}.{kind}"] = rows if new == "attr_fc" else _background_first(rows, caffe)
    left = sorted(set(state) - {"pixel_mean", "pixel_std"})  # these two were looked at above
    if left:
        raise ValueError(f"{source} holds {left[0]!r}, which the bottom-up model lacks: it is another model's")
    return found


def _is_caffes(state: dict[str, Tensor], source: str) -> bool:
    """Whether the numbers are Caffe's (MILVLG) or detectron2's (airsplay, Hugging Face), by three shapes that agree."""
    rows = {}
    for key in (OBJECTNESS, f"{HEADS}cls_score", f"{HEADS}bbox_pred"):
        for kind, dims in (("weight", (2, 4)), ("bias", (1,))):
            value = state.get(f"{key}.{kind}")
            if value is None or value.ndim not in dims:
                found = "nothing" if value is None else tuple(value.shape)
                raise ValueError(f"{source} has {found} for {key}.{kind}: it is no bottom-up model of a known layout")
        rows[key.rsplit(".", 1)[1]] = len(state[f"{key}.weight"])
    classes = rows["cls_score"]
    facts = (rows["objectness_logits"], rows["bbox_pred"], f"{HEADS}attr_linear1.weight" in state)
    if facts[:2] == (2 * ANCHORS, 4 * classes) and f"{HEADS}fc_attr.weight" not in state:
        return True
    if facts == (ANCHORS, 4 * (classes - 1), False):
        return False
    raise ValueError(
        f"{source} is of no known layout: {facts[0]} objectness rows, {classes} class rows, {facts[1]} box rows,"
        f" {'attr_linear1' if facts[2] else 'fc_attr or no attribute head'}. Known are 24, n, 4n (MILVLG) and "
        "12, n, 4(n - 1) (airsplay, Hugging Face)."
    )


def _check_variant(state: dict[str, Tensor], source: str) -> None:
    """ValueError for relatives of the model: other depths, other means."""
    for stage, blocks in zip(("res2", "res3", "res4"), BLOCKS, strict=True):
        numbers = {int(m[1]) for key in state if (m := re.match(rf"backbone\.{stage}\.(\d+)\.", key))}
        if numbers != set(range(blocks)):
            raise ValueError(f"{source} has {len(numbers)} blocks in {stage}, ResNet-101 has {blocks}: another model")
    for key, own in (("pixel_mean", MEAN), ("pixel_std", (1.0, 1.0, 1.0))):
        found = state[key].flatten().tolist() if key in state else list(own)
        if len(found) != 3 or max(abs(x - y) for x, y in zip(found, own, strict=True)) > 1e-2:
            raise ValueError(f"{source} was trained with the {key} {found}, not {own}: another model")


def _renamed(key: str) -> str | None:
    """This model's name of a convolution or norm of the backbone, res5 or the proposal head; None for other keys."""
    name = re.sub(r"^backbone\.|^roi_heads\.(?=res5\.)", "", key)
    name = re.sub(r"^proposal_generator\.rpn_head\.conv\.", "rpn.conv.", name)
    name = re.sub(r"^proposal_generator\.rpn_head\.anchor_deltas\.", "rpn.deltas.", name)
    name = re.sub(r"\.conv(\d)\.norm\.", r".bn\1.", name)
    name = name.replace(".shortcut.weight", ".downsample.0.weight").replace(".shortcut.norm.", ".downsample.1.")
    return name if re.match(r"(stem|res[2-5]|rpn)\.", name) else None


def _anchors(stored: Tensor | None, caffe: bool, given: Anchors | None, source: str) -> Tensor:
    """(12, 4) in Caffe's convention, in which x2 and y2 are included, in the order of the file's channels."""
    if stored is not None and stored.shape != (ANCHORS, 4):
        raise ValueError(f"{source}: {CELL_ANCHORS} is {tuple(stored.shape)}, not {(ANCHORS, 4)}")
    if stored is not None:
        same = {tuple(row) for row in stored.tolist()} == {tuple(row) for row in caffe_anchors().tolist()}
        return stored if caffe or same else stored - stored.new_tensor([0, 0, 1, 1])
    if given == "caffe":
        # Caffe's channels are ratio-major; airsplay's code gives a file without anchors size-major ones.
        return caffe_anchors() if caffe else caffe_anchors().view(3, 4, 4).transpose(0, 1).reshape(ANCHORS, 4)
    if given == "detectron2" and not caffe:
        return _detectron2_anchors()
    if given is not None:
        raise ValueError(f"{source} has Caffe's two logits an anchor: its anchors cannot be {given}'s, say caffe")
    raise ValueError(
        f"{source} holds no {CELL_ANCHORS}, and a wrong guess would give other regions without an error. Say which "
        f"anchors it was trained or converted with: {' or '.join(get_args(Anchors))} (caffe: rounded, centered at 7.5)"
    )


def _detectron2_anchors() -> Tensor:
    """detectron2's own for sizes 64 to 512: size-major, not rounded, centered on the cell's corner, edges exclusive."""
    found = []
    for scale in SCALES:
        for ratio in RATIOS:
            half_w, half_h = 8 * scale / ratio**0.5, 8 * scale * ratio**0.5
            found.append([-half_w, -half_h, half_w - 1, half_h - 1])
    return torch.tensor(found)


def _background_first(rows: Tensor, caffe: bool) -> Tensor:
    """Rows by class, the background moved from the end to the front where it was there."""
    return rows if caffe else rows.roll(1, 0)


def _plain_deltas(rows: Tensor, caffe: bool) -> Tensor:
    """Rows of four deltas a class, the background's first (zeros where the file has none), without their scale."""
    if caffe:
        return rows
    scale = rows.new_tensor(BBOX_REG_WEIGHTS)
    plain = rows.unflatten(0, (-1, 4)) / (scale[:, None] if rows.ndim == 2 else scale)
    return torch.cat([torch.zeros_like(plain[:1]), plain]).flatten(0, 1)
