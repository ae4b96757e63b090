"""A bottom-up model with random weights that behaves like a trained one, for tests without trained weights.

With plain random weights, activations grow without limit and all scores are equal. Here each batch norm gets the
statistics of its input, and each head is scaled until its outputs vary like those of a trained head: hundreds of
proposals survive, and a few dozen of them have a confident class.
"""

import numpy as np
import torch
from torch import nn
from torchvision.ops import roi_pool
from torchvision.ops.misc import FrozenBatchNorm2d

from data.demo.layout import compose_scene
from data.demo.paint import render_scene
from extractors.bottom_up.extractor import network_input_size
from extractors.bottom_up.model import Bottleneck, BottomUpRCNN, pool5_features
from extractors.bottom_up.proposals import apply_deltas, caffe_anchors, make_anchor_grid, select_proposals
from extractors.bottom_up.weights import MEAN


def calibrate_norm(norm: nn.Module, inputs: tuple[torch.Tensor]) -> None:
    """Give a batch norm the statistics of its input, and a gain and bias that vary by channel."""
    var, mean = torch.var_mean(inputs[0], (0, 2, 3))
    gain = torch.rand_like(mean) * 0.6 + 0.7
    norm.running_mean.copy_(mean)
    norm.running_var.copy_(var.clamp_min(1e-4))
    norm.weight.copy_(gain)
    norm.bias.copy_(torch.randn_like(mean) * 0.2)


def calibrate_block(block: Bottleneck, inputs: tuple[torch.Tensor]) -> None:
    """Scale a block to add less than its shortcut carries, and make the last block sparse, so that errors do not grow.

    A trained network is robust. In one with random weights and full branches, an error of 1e-6 grows to 6e-5 at res4.
    """
    shortcut = inputs[0] if block.downsample is None else block.downsample(inputs[0])
    inner = block.bn2(block.conv2(block.bn1(block.conv1(inputs[0])).relu())).relu()
    calibrate_norm(block.bn3, (block.conv3(inner),))
    deviation = shortcut.std((0, 2, 3))
    block.bn3.weight.mul_(0.4 * deviation)
    block.bn3.bias.copy_(-0.1 * deviation)
    if block.last:
        var, mean = torch.var_mean(block.bn3(block.conv3(inner)) + shortcut, (0, 2, 3))
        block.bn3.bias.sub_(mean + 2.5 * var.sqrt())


def scale_head(layer: nn.Module, inputs: torch.Tensor, deviation: float) -> None:
    """Scale a head so that each output has mean 0 and standard deviation `deviation` over the inputs."""
    out = layer(inputs)
    dims = (0, 2, 3) if out.ndim == 4 else (0,)
    var, mean = torch.var_mean(out, dims)
    shape = (-1, *[1] * (layer.weight.ndim - 1))
    layer.weight.mul_((deviation / var.sqrt()).view(shape))
    layer.bias.copy_((layer.bias - mean) * deviation / var.sqrt())


def sharpen(layer: nn.Linear, features: torch.Tensor) -> None:
    """Scale the logits until one RoI in eight has a confidence above 0.2, as with the weights of Caffe."""
    logits, low, high = layer(features), 0.1, 100.0
    for _ in range(30):
        scale = (low * high) ** 0.5
        confidence = (scale * logits).softmax(1)[:, 1:].max(1).values
        low, high = (scale, high) if (confidence > 0.2).float().mean() < 1 / 8 else (low, scale)
    layer.weight.mul_(low)
    layer.bias.mul_(low)


@torch.no_grad()
def calibrated(classes: int = 1600, attributes: int = 400, seed: int = 0, short: int = 600) -> BottomUpRCNN:
    """Return a bottom-up model with such weights in eval mode, for inputs with a short side of `short` pixels."""
    torch.manual_seed(seed)
    model = BottomUpRCNN(classes, attributes).eval()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight)
    for name, module in model.named_modules():
        if isinstance(module, Bottleneck):
            module.last = name == "res5.2"
            module.register_forward_pre_hook(calibrate_block)
        if isinstance(module, FrozenBatchNorm2d) and not name.endswith("bn3"):
            module.register_forward_pre_hook(calibrate_norm)
    model.rpn.anchors.copy_(caffe_anchors())
    scenes = [render_scene(compose_scene(seed, i))[0] for i in range(3)]
    height, width = scenes[0].shape[:2]
    pixels = torch.from_numpy(np.stack(scenes)[..., ::-1].copy()).float()
    net_w, net_h, scale = network_input_size(width, height, short, 2 * short)
    x = nn.functional.interpolate((pixels - torch.tensor(MEAN)).permute(0, 3, 1, 2), (net_h, net_w), mode="bilinear")
    maps = model.backbone_features(x)
    hidden = model.rpn.conv(maps).relu()
    scale_head(model.rpn.objectness, hidden, 3.0)
    scale_head(model.rpn.deltas, hidden, 0.25)
    logits, deltas = model.rpn(maps)
    boxes = select_proposals(
        logits[0], apply_deltas(make_anchor_grid(model.rpn.anchors, *maps.shape[2:]), deltas[0], (net_w, net_h)), scale
    )
    features = pool5_features(model.res5, roi_pool(maps[:1], [boxes[:: 1 + len(boxes) // 64]], 14, 1 / 16))
    scale_head(model.cls_score, features, 1.0)
    sharpen(model.cls_score, features)
    scale_head(model.bbox_pred, features, 0.1)
    if attributes:
        class_embedding = model.cls_embed(model.cls_score(features).argmax(1))
        scale_head(model.attr_fc, attribute_inputs := torch.cat([features, class_embedding], 1), 1.0)
        scale_head(model.attr_score, model.attr_fc(attribute_inputs).relu(), 3.0)
    for module in model.modules():
        module._forward_pre_hooks.clear()
    return model
