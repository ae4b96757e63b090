"""Cost of each loss: forward and backward of 512 images and 512 captions of width 1,024; and the recall it reaches."""

import resource
import subprocess
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.table import Table

from data.store.store import Store
from pipeline.plans.load import load_plan
from tern.config import LossConfig, TrainConfig
from tern.losses.build import build_loss
from tern.model.folder import load_model
from tern.training.inputs import TrainingInputs
from tern.training.train import train
from tern.training.validation import evaluate_split
from tests.bench.common import cpu, show
from tests.helpers.small_plan import extract_features

BATCH, DIM = 512, 1024
LOSSES = {
    "hinge, hardest": {"name": "hinge"},
    "hinge, semi-hard": {"name": "hinge", "negatives": "semihard"},
    "hinge, all": {"name": "hinge", "negatives": "all"},
    "InfoNCE": {},
    "InfoNCE, memory of 4,096": {"memory_size": 4096},
    "InfoNCE, VICReg": {"vicreg_weight": 0.01},
    **{
        name: {"name": name}
        for name in (
            "SupConLoss", "CircleLoss", "MultiSimilarityLoss", "GeneralizedLiftedStructureLoss", "NCALoss",
            "ContrastiveLoss", "IntraPairVarianceLoss", "TripletMarginLoss", "MarginLoss", "AngularLoss",
            "SignalToNoiseRatioContrastiveLoss", "NTXentLoss", "TupletMarginLoss", "LiftedStructureLoss",
        )
    },
    **{
        f"TripletMarginLoss, {miner}": {"name": "TripletMarginLoss", "miner": miner}
        for miner in ("BatchHardMiner", "TripletMarginMiner", "DistanceWeightedMiner", "AngularMiner")
    },
    **{
        f"ContrastiveLoss, {miner}": {"name": "ContrastiveLoss", "miner": miner}
        for miner in ("BatchEasyHardMiner", "HDCMiner", "PairMarginMiner", "UniformHistogramMiner")
    },
    "MultiSimilarityLoss, MultiSimilarityMiner": {"name": "MultiSimilarityLoss", "miner": "MultiSimilarityMiner"},
}  # fmt: skip
SMALL = {"epochs": 10, "model": {"width": 128, "feedforward_dim": 256, "embed_dim": 256}}
REACHES = {  # also trained, in addition to LOSSES
    "InfoNCE, memory of 1,024 from batch 40": {"memory_size": 1024, "memory_start_batch": 40},
    "InfoNCE, memory of 1,024 from the first": {"memory_size": 1024},
    "hinge, hardest, memory of 1,024 from the first": {"name": "hinge", "memory_size": 1024},
    "NCALoss, softmax_scale 10": {"name": "NCALoss", "params": {"softmax_scale": 10}},
    "ContrastiveLoss, nonzero": {"name": "ContrastiveLoss", "reduction": "nonzero"},
    "TripletMarginLoss, margin 0.2, nonzero": {
        "name": "TripletMarginLoss", "params": {"margin": 0.2}, "reduction": "nonzero",
    },
}  # fmt: skip
NOT_TRAINED = "InfoNCE, memory of 4,096"  # more rows than the demo has


def losses_demo(folder: Path) -> None:
    """rsum on the demo's test split after 10 epochs of a small model under one recipe, seed 0."""
    features = extract_features(load_plan("demo", (f'workspace="{folder / "demo"}"',)))
    regions, tokens, dataset = Store(features.regions), Store(features.tokens), features.dataset
    table, console = Table("loss", "R@1, t2i", "R@1, i2t", "rsum", title=losses_demo.__doc__), Console(width=100)
    for name, loss in (LOSSES | REACHES).items():
        if name == NOT_TRAINED:
            continue
        inputs = TrainingInputs(regions, tokens, dataset)
        run = train(inputs, TrainConfig(**SMALL, loss=loss), folder / name.replace(" ", "-"))
        metrics = evaluate_split(load_model(run), regions, tokens, dataset.select_split("test"))
        row = (name, *(f"{value:.1f}" for value in (metrics.t2i.r1, metrics.i2t.r1, metrics.rsum)))
        console.print(": ".join((name, row[-1])), style="dim")
        table.add_row(*row)
    console.print(table)


def losses() -> None:
    """Measure each loss in a new process, so that its memory can be measured."""
    rows = []
    for name in LOSSES:
        process = subprocess.run(
            [sys.executable, "-m", "tests.bench.tern.losses", name], capture_output=True, text=True
        )
        if process.returncode:
            print(f"{name} ended with {process.returncode}: {process.stderr[-300:]}")
            continue
        seconds, megabytes = map(float, process.stdout.split())
        # the imports alone have a peak of some hundred megabytes, so that smaller peaks are not visible
        rows.append((name, seconds, f"{megabytes / 1024:.1f} GB" if megabytes > 100 else ""))
    show(f"a loss, forward and backward, {BATCH} x {BATCH}, {DIM} wide", rows)


def measure_loss(name: str) -> tuple[float, float]:
    """Return CPU seconds and megabytes of one loss."""
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(BATCH, DIM, generator=generator)
    rows = [F.normalize(base + torch.randn(BATCH, DIM, generator=generator), dim=1).requires_grad_() for _ in range(2)]
    labels, loss = torch.arange(BATCH), build_loss(LossConfig(**LOSSES[name]))
    for _ in range(8 if "memory" in name else 0):  # fills the memory
        loss(*rows, labels, labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = cpu(lambda: loss(*rows, labels, labels).backward(), repeats=3)
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(*measure_loss(sys.argv[1]))
