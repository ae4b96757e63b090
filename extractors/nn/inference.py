"""What makes a network fast without changing what it says: folded batch norms, channels_last, half precision."""

from __future__ import annotations

import re
from functools import lru_cache
from itertools import pairwise

import torch
from torch import Tensor, nn

DTYPE_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def choose_dtype(device: str, exact: bool = False) -> torch.dtype:
    """What a network computes in: float32 if `exact` or where the machine has no half precision of its own.

    On a GPU bfloat16 where it is native, else float16; on a CPU bfloat16 where there are instructions for it
    (avx512_bf16 or amx: emulated, it is slower than float32). The same network gives other numbers in each, so the
    name of it (`NAMES`) belongs into the fingerprint.
    """
    on_gpu = parse_device(device).type == "cuda"
    if on_gpu:
        torch.backends.cudnn.allow_tf32 = False  # of the process: float32 convolutions would keep 10 bits of 23
    if exact:
        return torch.float32
    if on_gpu:
        return torch.bfloat16 if torch.cuda.get_device_capability(device)[0] >= 8 else torch.float16
    able = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if able else torch.float32


def parse_device(device: str) -> torch.device:
    """The device of a name; ValueError for one that there is not."""
    try:
        found = torch.device(device)
    except RuntimeError as error:
        raise ValueError(f'no device is called {device!r}: use "cpu", "cuda" or "cuda:1"') from error
    if found.type not in ("cpu", "cuda"):
        raise ValueError(f'the device {device!r} was never tried: use "cpu", "cuda" or "cuda:1"')
    if found.type == "cuda" and (found.index or 0) >= torch.cuda.device_count():
        raise ValueError(f"there is no {device!r}: torch sees {torch.cuda.device_count()} GPUs here")
    return found


def optimize_for_inference(model: nn.Module, dtype: torch.dtype, device: str = "cpu") -> nn.Module:
    """`model` in eval mode, its batch norms folded, its weights `dtype` and channels_last on `device`; in place."""
    return fold_batch_norms(model.eval()).to(device=device, dtype=dtype, memory_format=torch.channels_last)


def fold_batch_norms(model: nn.Module) -> nn.Module:
    """Take every batch norm that follows a convolution into that convolution; in place, and returned.

    Pairs are found by structure: attributes `convN` and `bnN` of one module, neighbors in a Sequential, and a
    convolution's own `norm` (detectron2). A batch norm in no pair stays. The new weights are computed in float64.
    """
    for parent in list(model.modules()):
        for holder, name, convolution in _pairs(parent):
            _take_in(convolution, getattr(holder, name))
            setattr(holder, name, nn.Identity())
    return model


def _pairs(parent: nn.Module) -> list[tuple[nn.Module, str, nn.Conv2d]]:
    """(module that holds the norm, its name there, the convolution before it)."""
    children = dict(parent.named_children())
    found = []
    if isinstance(parent, nn.Conv2d) and "norm" in children:
        found.append((parent, "norm", parent))
    elif isinstance(parent, nn.Sequential):
        names = list(children)
        found += [(parent, after, children[name]) for name, after in pairwise(names)]
    else:
        numbered = [(name, re.fullmatch(r"conv(\d*)", name)) for name in children]
        found += [(parent, f"bn{m[1]}", children[name]) for name, m in numbered if m and f"bn{m[1]}" in children]
    return [p for p in found if isinstance(p[2], nn.Conv2d) and _is_norm(getattr(p[0], p[1]), p[2].out_channels)]


def _is_norm(module: nn.Module, channels: int) -> bool:
    """A batch norm of that many channels, frozen or not: torch's, torchvision's and detectron2's share these names."""
    state = module.state_dict()
    return {"weight", "bias", "running_mean", "running_var"} <= set(state) and len(state["weight"]) == channels


@torch.no_grad()
def _take_in(convolution: nn.Conv2d, norm: nn.Module) -> None:
    gain = norm.weight.double() / (norm.running_var.double() + norm.eps).sqrt()  # (channels out,)
    before = 0.0 if convolution.bias is None else convolution.bias.double()
    bias = (before - norm.running_mean.double()) * gain + norm.bias.double()
    weight = convolution.weight.double() * gain[:, None, None, None]
    convolution.weight = nn.Parameter(weight.to(convolution.weight), requires_grad=False)
    convolution.bias = nn.Parameter(bias.to(convolution.weight), requires_grad=False)


def to_cpu(tensors: list[Tensor]) -> list[Tensor]:
    """Copies in main memory: from a GPU all at once through pinned memory, waiting once and without spinning."""
    if not tensors or tensors[0].device.type != "cuda":
        return [tensor.cpu() for tensor in tensors]
    copies = [torch.empty(x.shape, dtype=x.dtype, pin_memory=True).copy_(x, non_blocking=True) for x in tensors]
    done = torch.cuda.Event(blocking=True)
    done.record()
    done.synchronize()
    return copies


def to_device(tensor: Tensor, device: str) -> Tensor:
    """`tensor` on `device`, ready to be read there by any stream.

    To a GPU it goes through pinned memory on a stream of its own, beside the kernels that run; only the thread that
    asks waits, so call it where images are prepared.
    """
    if torch.device(device).type != "cuda":
        return tensor.to(device)
    stream = _copying(device)
    with torch.cuda.stream(stream):
        copy = tensor.pin_memory().to(device, non_blocking=True)
    stream.synchronize()
    return copy


@lru_cache
def _copying(device: str) -> torch.cuda.Stream:
    """A stream for copies to a device: memory that was allocated on a stream is used again on that stream only."""
    return torch.cuda.Stream(device)
