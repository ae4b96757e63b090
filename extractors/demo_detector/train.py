"""Train the demo's detector on scenes drawn for it, and measure it on the held-out ones.

python -m extractors.train_detector --minutes 36    train, save the weights and their figures beside them
python -m extractors.train_detector --start demo    the same, from the shipped weights on
python -m extractors.train_detector --evaluate      measure the shipped weights on the demo's test scenes
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from pydantic import BaseModel, ConfigDict, Field
from safetensors.torch import save_file
from torch import nn
from torchvision.models.detection import FasterRCNN

from data.config import DemoConfig
from data.demo import CLASSES, PLACES, generate_demo_dataset
from data.images import load_image
from data.io import atomic_write, read_json, write_json
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


class DetectorTrainConfig(BaseModel):
    """One training run. The clock, not a number of steps, ends it, so that it fits a busy machine."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minutes: float = Field(36, gt=0)  # of training, painting not counted
    num_scenes: int = Field(8000, ge=8)  # painted once, then shown mirrored or not until the time is over
    init_weights: str = ""  # weights to go on from, "demo" or a file; none: from nothing. Rate and heads begin anew
    seed: int = 7  # of scenes, weights and order; the demo's own is 2020
    batch_size: int = Field(6, ge=1)  # images, of every process
    lr: float = Field(1e-3, gt=0)  # peak learning rate of AdamW
    weight_decay: float = Field(0.02, ge=0)  # weight decay
    ema: float = Field(0.998, ge=0, lt=1)  # of the moving average of the weights, a step
    num_processes: int = Field(2, ge=1)  # of one thread each; waiting threads would cost a busy machine more


def train(config: DetectorTrainConfig) -> tuple[FasterRCNN, dict]:
    """The averaged model in eval mode and what the run was: steps, last losses, the hash of the weights it began from.

    Raises ValueError if the weights of `start` are of other classes, FileNotFoundError if there are none.
    """
    if config.init_weights:
        _started(config)  # before any scene is painted
    threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        meeting = f"file://{folder}/meeting"
        context = torch.multiprocessing.get_context("spawn")
        others = [
            context.Process(target=_learn, args=(config, rank, meeting), daemon=True)
            for rank in range(1, config.num_processes)
        ]
        for process in others:
            process.start()
        try:
            result = _learn(config, 0, meeting)
        finally:
            torch.set_num_threads(threads)  # what the caller computes next adds in the order it did before
        for process in others:
            process.join()
    return result


def _learn(config: DetectorTrainConfig, rank: int, meeting: str) -> tuple[FasterRCNN, dict]:
    """One process: its own scenes, one thread, gradients averaged over all processes."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=config.num_processes)
    rng = np.random.default_rng([config.seed, rank])
    lessons, vocabulary = _prepare(config, rank)
    torch.manual_seed(config.seed)
    model = _started(config) if config.init_weights else build_demo_detector(len(CLASSES) + 1)
    model = model.train().to(memory_format=torch.channels_last)
    started = {"start_sha256": state_sha256(model)} if config.init_weights else {}
    heads = build_auxiliary_heads(*vocabulary)
    torch.manual_seed(config.seed + rank)
    averaged = copy.deepcopy(model)
    parameters = [*model.parameters(), *heads.parameters()]
    optimizer = torch.optim.AdamW(parameters, config.lr, weight_decay=config.weight_decay)
    start, shown, means, done = time.monotonic(), 0.0, {}, 0.0
    for step, members in enumerate(iter_batches(lessons, config.batch_size, rng)):
        for group in optimizer.param_groups:
            group["lr"] = config.lr * one_cycle_lr_factor(done)
        images, targets = zip(*(load_example(lesson, *vocabulary, rng) for lesson in members), strict=True)
        with torch.autocast("cpu", torch.bfloat16):
            parts = compute_losses(model, heads, list(images), list(targets))
        optimizer.zero_grad()
        sum(parts.values()).backward()
        done = _share(parameters, (time.monotonic() - start) / (60 * config.minutes))
        nn.utils.clip_grad_norm_(parameters, 10.0)
        optimizer.step()
        _average(averaged, model, min(config.ema, (1 + step) / (10 + step)))
        means = {k: 0.98 * means.get(k, float(v.detach())) + 0.02 * float(v.detach()) for k, v in parts.items()}
        if rank == 0 and time.monotonic() - shown > 20:
            shown = time.monotonic()
            _progress(step, config, start, means)
        if done >= 1:
            break
    dist.destroy_process_group()
    run = started | {"steps": step + 1, "losses": {k: round(v, 4) for k, v in means.items()}}
    return averaged.eval(), run


def _started(config: DetectorTrainConfig) -> FasterRCNN:
    model, classes = build_detector("demo", config.init_weights)
    if classes != ("background", *CLASSES):
        raise ValueError(f"start: the classes of {config.init_weights} are not those of the scenes; train from nothing")
    return model


def _prepare(config: DetectorTrainConfig, rank: int) -> tuple[list[TrainingScene], tuple[list[str], list[str]]]:
    """This process's scenes, and the deeds and colors in the scenes of all of them."""
    lessons = [render_training_scene((config.seed, i)) for i in range(rank, config.num_scenes, config.num_processes)]
    found: list = [None] * config.num_processes
    dist.all_gather_object(found, collect_vocabulary(lessons))
    return lessons, tuple(sorted({word for part in parts for word in part}) for parts in zip(*found, strict=True))


def _share(parameters: list[nn.Parameter], done: float) -> float:
    """Average gradients, and how much of the time is over, over all processes: all must stop at one step."""
    gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in parameters]
    flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor([done])])
    dist.all_reduce(flat)
    flat /= dist.get_world_size()
    for parameter, part in zip(parameters, flat[:-1].split([p.numel() for p in parameters]), strict=True):
        parameter.grad = part.view_as(parameter)
    return float(flat[-1])


def one_cycle_lr_factor(done: float) -> float:
    """Share of the peak rate when `done` (0..1) of the time is over: up in 5 %, then down along a cosine."""
    return min(done / 0.05 + 0.02, 1.0) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))


def _average(averaged: nn.Module, model: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for mine, new in zip(averaged.state_dict().values(), model.state_dict().values(), strict=True):
            if mine.is_floating_point():
                mine.lerp_(new, 1 - keep)
            else:
                mine.copy_(new)


def _progress(step: int, config: DetectorTrainConfig, start: float, means: dict[str, float]) -> None:
    spent = time.monotonic() - start
    parts = "  ".join(f"{key.removeprefix('loss_')} {value:.3f}" for key, value in means.items())
    rate = (step + 1) * config.batch_size * config.num_processes / spent
    print(f"step {step}  {rate:.1f} images/s  {config.minutes - spent / 60:.1f} min left  {parts}", flush=True)


def save(model: FasterRCNN, config: DetectorTrainConfig, run: dict, path: Path) -> None:
    """float16 safetensors with the class names, and the config and seed of the run, in their header."""
    state = {k: v.half().contiguous() for k, v in model.state_dict().items() if v.is_floating_point()}
    header = {
        "classes": json.dumps(["background", *CLASSES]),
        "config": config.model_dump_json(),
        "run": json.dumps(run),
    }
    with atomic_write(path) as temporary:
        save_file(state, temporary, header)
        temporary.chmod(0o644)  # safetensors leaves it to its owner alone


@torch.inference_mode()
def evaluate(weights: str, folder: Path) -> dict:
    """mAP@0.5 of a weights file on the test scenes of the demo in `folder` (generated there if need be)."""
    generate_demo_dataset(DemoConfig(), folder)
    model, classes = build_detector("demo", weights)
    drawn = read_json(folder / "boxes.json")["images"]
    images = [i for i in read_json(folder / "dataset_demo.json")["images"] if i["split"] == "test"]
    truth, found = [], []
    for image in images:
        boxes = drawn[image["filename"]]
        labels = np.array([classes.index(name) for name in boxes["labels"]])
        truth.append(ImageBoxes(np.array(boxes["boxes"], dtype=np.float32).reshape(-1, 4), labels))
        pixels = torch.from_numpy(load_image(folder / "images" / image["filename"])).permute(2, 0, 1).float() / 255
        result = {key: value.numpy() for key, value in model([pixels])[0].items()}
        found.append(ImageBoxes(result["boxes"], result["labels"], result["scores"]))
    return _summary({classes[label]: ap for label, ap in average_precision(truth, found).items()}, len(images))


def _summary(by_class: dict[str, float], images: int) -> dict:
    places = [ap for name, ap in by_class.items() if name in PLACES]
    things = [ap for name, ap in by_class.items() if name not in PLACES]
    return {
        "map50": round(float(np.mean([*places, *things])), 4),
        "map50_things": round(float(np.mean(things)), 4),
        "map50_places": round(float(np.mean(places)), 4),
        "images": images,
        "ap50": {name: round(ap, 3) for name, ap in sorted(by_class.items(), key=lambda item: item[1])},
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, field in DetectorTrainConfig.model_fields.items():
        parser.add_argument(
            f"--{name.replace('_', '-')}", type=field.annotation, default=field.default, help=f"default {field.default}"
        )
    parser.add_argument("--weights", type=Path, default=DEMO_WEIGHTS, help="file to write, or to measure")
    parser.add_argument("--demo", type=Path, default=Path("runs/demo/dataset"), help="folder of the demo's scenes")
    parser.add_argument("--evaluate", action="store_true", help="measure only")
    given = vars(parser.parse_args())
    weights, folder, only = given.pop("weights"), given.pop("demo"), given.pop("evaluate")
    run: dict = {}
    if not only:
        config = DetectorTrainConfig(**given)
        model, run = train(config)
        run = {"config": config.model_dump(), **run}
        save(model, config, run, weights)
    figures = {**run, **evaluate(str(weights), folder)}
    if not only:
        write_json(weights.with_suffix(".json"), figures)
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
