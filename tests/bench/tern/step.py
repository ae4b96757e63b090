"""Cost of a training step: the model of the paper as its authors run it, and the presets, in one run."""

import copy
from collections.abc import Callable

import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from tern.config import TrainConfig
from tern.losses.build import build_loss
from tern.networks.build import build_model
from tern.networks.inputs import ImageBatch
from tern.training.optim import build_optimizer, update_ema
from tests.bench.common import cpu_of
from tests.reference.tern import SlowTern, hinge

REGIONS, WIDTH, TOKENS, WORDS, PAIRS = 36, 2048, 768, 30, 128
ROUNDS = 2


def step() -> None:
    """CPU seconds of a complete step over 128 captions on one thread; minimum of two rounds."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    methods: dict[str, Callable[[], tuple[Callable[[int], None], int]]] = {
        "specification, float32, one image per caption": _make_specification,
        "paper, 128 images, 1 caption each": lambda: _make_preset("paper", 1),
        "paper, 64 images, 2 captions each": lambda: _make_preset("paper", 2),
        "kaylode, 128 images, 1 caption each": lambda: _make_preset("kaylode", 1),
        "default, 128 images, 1 caption each": lambda: _make_preset("default", 1),
        "default, 64 images, 2 captions each": lambda: _make_preset("default", 2),
        "default, 64 images, 2 captions each, bf16": lambda: _make_preset("default", 2, bf16=True),
    }
    runs, parameters, minimum = {}, {}, {}
    for name, build in methods.items():
        torch.manual_seed(0)
        runs[name], parameters[name] = build()
        runs[name](4)
    for _ in range(ROUNDS):
        for name, run in runs.items():
            seconds, _ = cpu_of(lambda run=run: run(PAIRS))
            minimum[name] = min(seconds, minimum.get(name, seconds))
    table = Table("what", "parameters, M", "CPU s per step", "of the first", title=step.__doc__)
    reference_seconds = next(iter(minimum.values()))
    for name, seconds in minimum.items():
        table.add_row(name, f"{parameters[name] / 1e6:.2f}", f"{seconds:.2f}", f"{seconds / reference_seconds:.3f}")
    Console(width=120).print(table)
    torch.set_num_threads(threads)


def _pixels(images: int) -> tuple[torch.Tensor, ...]:
    """Return features, boxes in pixels, and sizes in pixels."""
    low, high = torch.rand(images, REGIONS, 2) * 200, torch.rand(images, REGIONS, 2) * 200 + 200
    return torch.randn(images, REGIONS, WIDTH).relu(), torch.cat([low, high], 2), torch.full((images, 2), 400.0)


def _make_specification() -> tuple[Callable[[int], None], int]:
    model = SlowTern().train()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-6)

    def run(pairs: int) -> None:
        words = torch.randn(pairs, WORDS, TOKENS)
        loss = hinge(*model(*_pixels(pairs), [REGIONS] * pairs, words, [WORDS] * pairs))
        _update(model, optimizer, loss, 2.0)

    return run, sum(p.numel() for p in model.parameters())


def _make_preset(preset: str, captions_per_image: int, **changes: object) -> tuple[Callable[[int], None], int]:
    config = TrainConfig(preset=preset, **changes)
    model, loss_of = build_model(config.model, WIDTH, TOKENS).train(), build_loss(config.loss)
    optimizer, ema_model = build_optimizer(config, model, loss_of), copy.deepcopy(model)

    def run(pairs: int) -> None:
        images, words = pairs // captions_per_image, torch.randn(pairs, WORDS, TOKENS)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.bf16):
            image_vectors = model.embed_images(
                ImageBatch(*_pixels(images), torch.ones(images, REGIONS, dtype=torch.bool))
            )
            caption_vectors = model.embed_captions(words, torch.ones(pairs, WORDS, dtype=torch.bool))
        labels = torch.arange(images)
        loss = loss_of(image_vectors, caption_vectors, labels, labels.repeat_interleave(captions_per_image))
        _update(model, optimizer, loss, config.max_grad_norm)
        update_ema(ema_model, model, config.ema)

    return run, sum(p.numel() for p in model.parameters())


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, loss: torch.Tensor, clip: float) -> None:
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), clip)
    optimizer.step()
