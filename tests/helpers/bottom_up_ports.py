"""Weights of a bottom-up model in the layouts of the ports: MILVLG with Caffe's numbers, airsplay with detectron2's."""

import re

import torch

CELL_ANCHORS = "proposal_generator.anchor_generator.cell_anchors.0"
HEADS = "roi_heads.box_predictor."


def shared(state):
    """Return the tensors that both ports name alike: backbone, res5, convolution and deltas of the proposal head."""
    found = {}
    for key, value in state.items():
        stage = key.split(".")[0]
        if stage in ("stem", "res2", "res3", "res4", "res5"):
            name = re.sub(r"\.bn(\d)\.", r".conv\1.norm.", key)
            name = name.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
            found[("roi_heads." if stage == "res5" else "backbone.") + name] = value
    for ours, theirs in (("conv", "conv"), ("deltas", "anchor_deltas")):
        for kind in ("weight", "bias"):
            found[f"proposal_generator.rpn_head.{theirs}.{kind}"] = state[f"rpn.{ours}.{kind}"]
    return found


def milvlg(state, anchors=True):
    """Return MILVLG's layout: 24 objectness rows, background first, unscaled deltas, batch counters of the norms."""
    found, draw = shared(state), torch.Generator().manual_seed(5)
    for kind in ("weight", "bias"):
        rows = state[f"rpn.objectness.{kind}"]
        background = torch.randn(rows.shape, generator=draw)
        found[f"proposal_generator.rpn_head.objectness_logits.{kind}"] = torch.cat([background, background + rows])
        for ours, theirs in (("attr_fc", "attr_linear1"), ("attr_score", "attr_linear2")):
            found[f"{HEADS}{theirs}.{kind}"] = state[f"{ours}.{kind}"]
        for name in ("cls_score", "bbox_pred"):
            found[f"{HEADS}{name}.{kind}"] = state[f"{name}.{kind}"]
    found[f"{HEADS}cls_embed.weight"] = state["cls_embed.weight"]
    counters = {key[:-6] + "num_batches_tracked": torch.tensor(7) for key in found if key.endswith("norm.weight")}
    return {**found, **counters, **({CELL_ANCHORS: state["rpn.anchors"]} if anchors else {})}


def airsplay(state, anchors=True):
    """Return airsplay's layout: 12 objectness rows, background last, scaled deltas, exclusive edges."""
    found = shared(state)
    last = lambda rows: torch.cat([rows[1:], rows[:1]])  # noqa: E731
    for kind in ("weight", "bias"):
        found[f"proposal_generator.rpn_head.objectness_logits.{kind}"] = state[f"rpn.objectness.{kind}"]
        found[f"{HEADS}cls_score.{kind}"] = last(state[f"cls_score.{kind}"])
        scale = torch.tensor([10.0, 10.0, 5.0, 5.0]).repeat(len(state["cls_score.bias"]) - 1)
        rows = state[f"bbox_pred.{kind}"][4:]
        found[f"{HEADS}bbox_pred.{kind}"] = rows * (scale[:, None] if rows.ndim == 2 else scale)
        found[f"{HEADS}fc_attr.{kind}"] = state[f"attr_fc.{kind}"]
        found[f"{HEADS}attr_score.{kind}"] = last(state[f"attr_score.{kind}"])
    found[f"{HEADS}cls_embedding.weight"] = last(state["cls_embed.weight"])
    exclusive = state["rpn.anchors"] + torch.tensor([0.0, 0.0, 1.0, 1.0])
    return {**found, **({CELL_ANCHORS: exclusive} if anchors else {})}
