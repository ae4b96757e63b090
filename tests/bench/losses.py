"""What a loss costs: forward and backward of 512 images against 512 captions, 1,024 wide."""

import resource
import subprocess
import sys

import torch
import torch.nn.functional as F

from tern.losses import LossConfig, build_loss
from tests.bench.common import cpu, show

BATCH, DIM = 512, 1024
LOSSES = {
    "hinge, hardest": {"name": "hinge"},
    "hinge, semi-hard": {"name": "hinge", "negatives": "semihard"},
    "hinge, all": {"name": "hinge", "negatives": "all"},
    "InfoNCE": {},
    "InfoNCE, memory of 4,096": {"memory": 4096},
    "InfoNCE, VICReg": {"vicreg": 0.01},
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


def losses() -> None:
    """Each loss in a process of its own, so that the memory it takes can be told."""
    rows = []
    for name in LOSSES:
        found = subprocess.run([sys.executable, "-m", "tests.bench.losses", name], capture_output=True, text=True)
        if found.returncode:
            print(f"{name} ended with {found.returncode}: {found.stderr[-300:]}")
            continue
        seconds, megabytes = map(float, found.stdout.split())
        # the imports alone have a peak of some hundred megabytes, below which nothing is seen
        rows.append((name, seconds, f"{megabytes / 1024:.1f} GB" if megabytes > 100 else ""))
    show(f"a loss, forward and backward, {BATCH} x {BATCH}, {DIM} wide", rows)


def one(name: str) -> tuple[float, float]:
    """CPU seconds and megabytes of one loss."""
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    base = torch.randn(BATCH, DIM, generator=draw)
    rows = [F.normalize(base + torch.randn(BATCH, DIM, generator=draw), dim=1).requires_grad_() for _ in range(2)]
    labels, loss = torch.arange(BATCH), build_loss(LossConfig(**LOSSES[name]))
    for _ in range(8 if "memory" in name else 0):  # fills it
        loss(*rows, labels, labels)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    seconds = cpu(lambda: loss(*rows, labels, labels).backward(), repeats=3)
    return seconds, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


if __name__ == "__main__":
    print(*one(sys.argv[1]))
