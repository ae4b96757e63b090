"""Train the demo detector on scenes drawn for it, and measure it on the test scenes of the demo dataset.

python -m extractors.demo_detector.train --minutes 36          train, write the weights and a .json file with figures
python -m extractors.demo_detector.train --init-weights demo   the same, starting from the shipped weights
python -m extractors.demo_detector.train --evaluate            measure the shipped weights
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from data.config import DemoConfig
from data.demo import CLASSES, PLACES, generate_demo_dataset
from data.images import load_image
from data.io import atomic_write, check_output_file, read_json, write_json
from extractors.demo_detector.average_precision import ImageBoxes, average_precision
from extractors.demo_detector.heads import build_auxiliary_heads, compute_losses
from extractors.demo_detector.scenes import (
    TrainingScene,
    collect_vocabulary,
    iter_batches,
    load_example,
    render_training_scene,
)
from extractors.nn.state_dict import state_sha256
from extractors.regions.demo_network import build_demo_detector
from extractors.regions.detectors import DEMO_WEIGHTS, build_detector

SECONDS_BETWEEN_LINES = 20


class DetectorTrainConfig(BaseModel):
    """Settings of one training run.

    It ends after a given time, so that its cost is known on a busy machine.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(36, gt=0)
    """Duration of the training in minutes, without the time to draw the scenes."""
    num_scenes: int = Field(8000, ge=8)
    """Number of scenes, which are drawn once and shown until the time is over."""
    init_weights: str = ""
    """Weights to start from, "demo" or a file; the learning rate schedule and the heads start again; empty starts from
    random weights."""
    seed: int = 7
    """Random seed of scenes, weights and order; the demo dataset has 2020."""
    batch_size: int = Field(6, ge=1)
    """Number of images per batch of each process."""
    lr: float = Field(1e-3, gt=0)
    """Peak learning rate of AdamW."""
    weight_decay: float = Field(0.02, ge=0)
    """Weight decay of AdamW."""
    ema: float = Field(0.998, ge=0, lt=1)
    """Decay per step of the moving average of the weights."""
    num_processes: int = Field(2, ge=1)
    """Number of processes of one thread each; more threads per process would wait for each other on a busy machine."""


class DetectorRun(BaseModel):
    """What a training run did."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    start_sha256: str | None = None
    """SHA-256 of the weights that it started from; None for random weights."""
    steps: int
    """Number of optimizer updates."""
    losses: dict[str, float]
    """Moving average of each loss at the end, by name."""


class DetectorFigures(BaseModel):
    """Average precision of a detector at an IoU of 0.5 on the test scenes of the demo dataset."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    map50: float
    """Mean over all classes, 0 to 1."""
    map50_things: float
    """Mean over the classes of things, 0 to 1."""
    map50_places: float
    """Mean over the classes of places, 0 to 1."""
    images: int
    """Number of test scenes."""
    ap50: dict[str, float]
    """Average precision of each class, lowest first."""


def train(config: DetectorTrainConfig) -> tuple[FasterRCNN, DetectorRun]:
    """Train the detector in `config.num_processes` processes.

    Returns:
        The EMA model in eval mode, and what the run did.

    Raises:
        ValueError: The weights of `init_weights` have other classes.
        FileNotFoundError: The weights of `init_weights` do not exist.
    """
    if config.init_weights:
        _load_init_weights(config)  # fails before any scene is drawn
    num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = f"file://{folder}/rendezvous"
        context = torch.multiprocessing.get_context("spawn")
        processes = [
            context.Process(target=_train_process, args=(config, rank, rendezvous), daemon=True)
            for rank in range(1, config.num_processes)
        ]
        for process in processes:
            process.start()
        try:
            result = _train_process(config, 0, rendezvous)
        finally:
            torch.set_num_threads(num_threads)  # later sums of the caller use the same order of additions as before
        for process in processes:
            process.join()
    return result


def _train_process(config: DetectorTrainConfig, rank: int, rendezvous: str) -> tuple[FasterRCNN, DetectorRun]:
    """Train in one process on its own scenes with one thread; gradients are averaged over all processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=config.num_processes)
    rng = np.random.default_rng([config.seed, rank])
    scenes, actions, colors = _render_scenes(config, rank)
    torch.manual_seed(config.seed)
    model = _load_init_weights(config) if config.init_weights else build_demo_detector(len(CLASSES) + 1)
    model = model.train().to(memory_format=torch.channels_last)
    start_sha256 = state_sha256(model) if config.init_weights else None
    heads = build_auxiliary_heads(actions, colors)
    torch.manual_seed(config.seed + rank)
    ema_model = copy.deepcopy(model)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    losses: dict[str, float] = {}
    start, last_line, done = time.monotonic(), 0.0, 0.0
    for step, batch in enumerate(iter_batches(scenes, config.batch_size, rng)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * one_cycle_lr_factor(done)
        images, targets = zip(*(load_example(scene, actions, colors, rng) for scene in batch), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            parts = compute_losses(model, heads, list(images), list(targets))
        optimizer.zero_grad()
        reduce(add, parts.values()).backward()
        done = _average_gradients(parameters, (time.monotonic() - start) / (60 * config.minutes))
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        _update_ema(ema_model, model, min(config.ema, (1 + step) / (10 + step)))
        _update_losses(losses, parts)
        if rank == 0 and time.monotonic() - last_line > SECONDS_BETWEEN_LINES:
            last_line = time.monotonic()
            _print_progress(step, config, start, losses)
        if done >= 1:
            break
    dist.destroy_process_group()
    rounded = {name: round(value, 4) for name, value in losses.items()}
    return ema_model.eval(), DetectorRun(start_sha256=start_sha256, steps=step + 1, losses=rounded)


def _load_init_weights(config: DetectorTrainConfig) -> FasterRCNN:
    model, classes = build_detector("demo", config.init_weights)
    if classes != ("background", *CLASSES):
        raise ValueError(
            f"The classes of {config.init_weights} are not those of the scenes. Omit --init-weights to train from "
            "random weights."
        )
    return model


def _render_scenes(config: DetectorTrainConfig, rank: int) -> tuple[list[TrainingScene], list[str], list[str]]:
    """Return the scenes of this process, and the actions and colors in the scenes of all processes."""
    scenes = [render_training_scene((config.seed, i)) for i in range(rank, config.num_scenes, config.num_processes)]
    vocabularies: list[Any] = [None] * config.num_processes
    dist.all_gather_object(vocabularies, collect_vocabulary(scenes))
    actions, colors = (sorted({word for part in parts for word in part}) for parts in zip(*vocabularies, strict=True))
    return scenes, actions, colors


def _average_gradients(parameters: list[nn.Parameter], done: float) -> float:
    """Average the gradients and the elapsed share of the time over all processes.

    The processes must stop at the same step.

    Args:
        parameters: Parameters whose gradients are replaced.
        done: Elapsed share of the time in this process.

    Returns:
        The mean of `done` over the processes.
    """
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor([done])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return float(flat[-1])


def one_cycle_lr_factor(done: float) -> float:
    """Return the share of the peak learning rate: a linear warm-up in 5 % of the time, then a cosine.

    Args:
        done: Elapsed share of the time, 0 to 1.
    """
    return min(done / 0.05 + 0.02, 1.0) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for average, value in zip(ema_model.state_dict().values(), model.state_dict().values(), strict=True):
            if average.is_floating_point():
                average.lerp_(value, 1 - decay)
            else:
                average.copy_(value)


def _update_losses(losses: dict[str, float], parts: dict[str, Tensor]) -> None:
    """Update the moving averages of the losses, in place; the first value starts an average."""
    for name, loss in parts.items():
        value = float(loss.detach())
        losses[name] = 0.98 * losses.get(name, value) + 0.02 * value


def _print_progress(step: int, config: DetectorTrainConfig, start: float, losses: dict[str, float]) -> None:
    spent = time.monotonic() - start
    parts = "  ".join(f"{key.removeprefix('loss_')} {value:.3f}" for key, value in losses.items())
    rate = (step + 1) * config.batch_size * config.num_processes / spent
    print(f"step {step}  {rate:.1f} images/s  {config.minutes - spent / 60:.1f} min left  {parts}", flush=True)


def save_detector(model: FasterRCNN, config: DetectorTrainConfig, run: DetectorRun, path: Path) -> None:
    """Save the weights as float16 .safetensors.

    The header has the class names, the settings and the run.

    Args:
        model: Detector to save.
        config: Settings of the training.
        run: Figures of the training.
        path: File to write.
    """
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    header = {
        "classes": json.dumps(["background", *CLASSES]),
        "config": config.model_dump_json(),
        "run": run.model_dump_json(exclude_none=True),
    }
    with atomic_write(path) as temporary:
        save_file(state, temporary, header)
        temporary.chmod(0o644)  # safetensors creates files that only their owner can read


@torch.inference_mode()
def evaluate_detector(weights: str, folder: Path) -> DetectorFigures:
    """Measure a weights file on the test scenes of the demo dataset.

    Args:
        weights: "demo" or a path.
        folder: Folder of the demo dataset; it is generated there if it does not exist.
    """
    generate_demo_dataset(DemoConfig(), folder)
    model, classes = build_detector("demo", weights)
    boxes_by_file = read_json(folder / "boxes.json")["images"]
    images = [i for i in read_json(folder / "dataset_demo.json")["images"] if i["split"] == "test"]
    targets, predictions = [], []
    for image in images:
        boxes = boxes_by_file[image["filename"]]
        labels = np.array([classes.index(name) for name in boxes["labels"]])
        targets.append(ImageBoxes(np.array(boxes["boxes"], dtype=np.float32).reshape(-1, 4), labels))
        pixels = torch.from_numpy(load_image(folder / "images" / image["filename"])).permute(2, 0, 1).float() / 255
        result = {key: value.numpy() for key, value in model([pixels])[0].items()}
        predictions.append(ImageBoxes(result["boxes"], result["labels"], result["scores"]))
    precisions = {classes[label]: ap for label, ap in average_precision(targets, predictions).items()}
    return _summarize(precisions, len(images))


def _summarize(precisions: dict[str, float], num_images: int) -> DetectorFigures:
    places = [ap for name, ap in precisions.items() if name in PLACES]
    things = [ap for name, ap in precisions.items() if name not in PLACES]
    return DetectorFigures(
        map50=round(float(np.mean([*places, *things])), 4),
        map50_things=round(float(np.mean(things)), 4),
        map50_places=round(float(np.mean(places)), 4),
        images=num_images,
        ap50={name: round(ap, 3) for name, ap in sorted(precisions.items(), key=lambda item: item[1])},
    )


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in DetectorTrainConfig.model_fields.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(field.default), default=field.default, help=f"default {field.default}")
    parser.add_argument("--weights", type=Path, default=DEMO_WEIGHTS, help="weights file to write or to measure")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo/dataset"), help="folder of the demo dataset")
    parser.add_argument("--evaluate", action="store_true", help="measure the weights without training")
    arguments = vars(parser.parse_args())
    weights, folder, evaluate_only = arguments.pop("weights"), arguments.pop("demo"), arguments.pop("evaluate")
    figures: dict[str, Any] = {}
    if not evaluate_only:
        for path in (weights, weights.with_suffix(".json")) if weights != DEMO_WEIGHTS else ():
            check_output_file(path)
        config = DetectorTrainConfig(**arguments)
        model, run = train(config)
        save_detector(model, config, run, weights)
        figures = {"config": config.model_dump(), **run.model_dump(exclude_none=True)}
    figures |= evaluate_detector(str(weights), folder).model_dump()
    if not evaluate_only:
        write_json(weights.with_suffix(".json"), figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
