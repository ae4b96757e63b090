"""Prepare networks for fast inference with equal results: folded batch norms, channels_last, half precision, copies.

Used by all region extractors.
"""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
Network = TypeVar("Network", bound=nn.Module)


def choose_dtype(device: str, full_precision: bool = False) -> torch.dtype:
    """Choose the dtype in which a network computes on a device.

    The same network gives different numbers in each dtype, so its name (`DTYPE_NAMES`) is part of the recipe.

    Args:
        device: Name of the device, such as "cpu" or "cuda:1".
        full_precision: Whether to use float32 in any case.

    Returns:
        float32 if `full_precision` is set or the machine has no fast half precision. Otherwise, on a GPU, bfloat16 from
        compute capability 8 on and float16 below; on a CPU, bfloat16. A CPU needs the instructions avx512_bf16 or amx,
        because emulated bfloat16 is slower than float32.

    Raises:
        ValueError: The device does not exist.
    """
    on_gpu = parse_device(device).type == "cuda"
    if on_gpu:
        # A setting of the process: with TF32, float32 convolutions keep 10 of the 23 bits of the mantissa.
        torch.backends.cudnn.allow_tf32 = False
    if full_precision:
        return torch.float32
    if on_gpu:
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    has_bfloat16 = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if has_bfloat16 else torch.float32


def parse_device(device: str) -> torch.device:
    """Return the torch device of a name.

    Raises:
        ValueError: The name is malformed, the type is neither "cpu" nor "cuda", or the machine has no such GPU.
    """
    try:
        parsed = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'Unknown device {device!r}. Set `device` to "cpu", "cuda" or "cuda:1".') from error
    if parsed.type not in ("cpu", "cuda"):
        raise ValueError(f'The device {device!r} is not supported. Set `device` to "cpu", "cuda" or "cuda:1".')
    if parsed.type == "cuda" and (parsed.index or 0) >= torch.cuda.device_count():
        raise ValueError(
            f"The device {device!r} does not exist: torch finds {torch.cuda.device_count()} GPUs on this machine. "
            'Set `device` to one of them, or to "cpu".'
        )
    return parsed


def optimize_for_inference(model: Network, dtype: torch.dtype, device: str = "cpu") -> Network:
    """Fold the batch norms of a model and move it to a dtype and a device in channels_last, in place.

    Args:
        model: Network to change.
        dtype: dtype of its weights, from `choose_dtype`.
        device: Name of the device, such as "cpu" or "cuda:1".

    Returns:
        The same model, in eval mode.
    """
    return fold_batch_norms(model.eval()).to(device=device, dtype=dtype).to(memory_format=torch.channels_last)


def fold_batch_norms(model: Network) -> Network:
    """Fold every batch norm that follows a convolution into that convolution, in place.

    Pairs are found by structure: attributes `convN` and `bnN` of one module, neighbors in an `nn.Sequential`, and the
    attribute `norm` of a convolution (detectron2). A batch norm in no pair stays. The new weights are computed in
    float64.

    Returns:
        The same model.
    """
    for parent in list(model.modules()):
        for holder, name, convolution in _find_pairs(parent):
            _fold_into_conv(convolution, getattr(holder, name))
            setattr(holder, name, nn.Identity())
    return model


def _find_pairs(parent: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    """List (module that holds a norm, attribute name of the norm, convolution before it)."""
    children = dict(parent.named_children())
    candidates: list[tuple[nn.Module, str, nn.Module]] = []
    if isinstance(parent, nn.Conv2d) and "norm" in children:
        candidates.append((parent, "norm", parent))
    elif isinstance(parent, nn.Sequential):
        candidates += [(parent, after, children[name]) for name, after in pairwise(children)]
    else:
        matches = [(name, re.fullmatch(r"conv(\d*)", name)) for name in children]
        candidates += [(parent, f"bn{m[1]}", children[name]) for name, m in matches if m and f"bn{m[1]}" in children]
    return [
        (holder, name, convolution)
        for holder, name, convolution in candidates
        if isinstance(convolution, nn.Conv2d) and _is_norm(getattr(holder, name), convolution.out_channels)
    ]


def _is_norm(module: nn.Module, channels: int) -> bool:
    """Return whether a module is a batch norm of `channels` channels.

    The attribute names are the same in torch, torchvision and detectron2.
    """
    state = module.state_dict()
    return {"weight", "bias", "running_mean", "running_var"} <= set(state) and len(state["weight"]) == channels


@torch.no_grad()
def _fold_into_conv(convolution: nn.Conv2d, norm: Any) -> None:
    """Replace the weight and bias of a convolution by those of the convolution followed by the batch norm."""
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # (channels out,)
    old_bias = 0.0 if convolution.bias is None else convolution.bias.double()
    bias = (old_bias - norm.running_mean.double()) * gain + norm.bias.double()
    weight = convolution.weight.double() * gain[:, None, None, None]
    convolution.weight = nn.Parameter(weight.to(convolution.weight), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(convolution.weight), requires_grad=False)


def to_cpu(tensors: list[Tensor]) -> list[Tensor]:
    """Copy tensors to main memory.

    From a GPU all of them are copied through pinned memory, and the thread waits once, without spinning.
    """
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    done = torch.cuda.Event(blocking=True)
    done.record()
    done.synchronize()
    return copies


def to_device(tensor: Tensor, device: str) -> Tensor:
    """Copy a tensor to a device, so that any stream can read it there.

    The copy to a GPU uses pinned memory and its own stream, at the same time as running kernels. The calling thread
    waits for the copy, so call this function in the threads that preprocess images.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    stream = _get_copy_stream(device)
    with torch.cuda.stream(stream):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    return copy


@lru_cache
def _get_copy_stream(device: str) -> torch.cuda.Stream:
    """Return the stream for copies to a device.

    There is one per device, because memory is reused only on its own stream.
    """
    return torch.cuda.Stream(device)
