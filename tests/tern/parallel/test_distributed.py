"""Two processes with half a batch each against one process: equal losses, gradients and trainings."""

import csv
import shutil
import subprocess
import sys
from concurrent.futures import BrokenExecutor
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from typer.testing import CliRunner

from data.store.store import Store
from pipeline.cli.app import build_app
from tern.config import TrainConfig
from tern.model.embed import embed_captions
from tern.model.folder import load_model
from tern.parallel.gradients import all_gather_with_grad
from tern.parallel.torchrun import make_failure_error
from tern.training.inputs import TrainingInputs
from tern.training.train import train
from tern.training.trainer import Trainer
from tests.helpers.small_plan import small_plan
from tests.helpers.tern_world import CONFIG

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
# No dropout, which differs between processes; regions and tokens are left out nevertheless. Gradients are not clipped,
# because clipping would hide a wrong factor.
NO_DROPOUT = CONFIG | {
    "images_per_batch": 9, "epochs": 2, "token_drop": 0.2, "max_grad_norm": 1e9,
    "model": CONFIG["model"] | {"input_dropout": 0, "token_dropout": 0, "dropout": 0, "shortcut_dropout": 0},
}  # fmt: skip
LOSSES = ({"name": "infonce"}, {"name": "hinge", "reduction": "sum"}, {"name": "MultiSimilarityLoss"})


def run_one_step(config, inputs):
    """The losses of the batches of the first step, and the gradients after it."""
    run = Trainer(inputs, config, "cpu")
    plans = run.plan_batches(0)[: config.gradient_accumulation_steps]
    run.train_step(plans, 0, iter([run.read_batch(numbered) for numbered in enumerate(plans)]))
    run.check_pending_values()
    named = [*run.model.named_parameters(), *run.loss.named_parameters()]
    return run.losses, {name: p.grad for name, p in named}


def run_process(rank, folder, configs, regions, tokens, dataset):
    """Run one of two processes: write the gradients of each configuration to a file, then train."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    inputs = TrainingInputs(Store(regions), Store(tokens), dataset)
    steps = [run_one_step(config, inputs) for config in configs]
    torch.save(steps, folder / f"{rank}.pt")
    rows = torch.arange(6.0).view(3, 2)[: 1 + rank].requires_grad_()
    (all_gather_with_grad(rows, [1, 2]) * torch.tensor([[2.0], [3.0], [5.0]])).sum().backward()
    torch.save(rows.grad, folder / f"gathered-{rank}.pt")
    train(inputs, configs[0], folder / "run", lambda row: (folder / f"epoch-{rank}-{row.epoch.epoch}").touch())
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def pair(world, tmp_path_factory):
    regions, tokens, dataset = world
    folder = tmp_path_factory.mktemp("pair")
    configs = [
        TrainConfig(**(NO_DROPOUT | {"loss": loss, "gradient_accumulation_steps": 1 + k % 2}))
        for k, loss in enumerate(LOSSES)
    ]
    context = get_context("forkserver")
    job = [(rank, folder, configs, regions.folder, tokens.folder, dataset) for rank in range(2)]
    processes = [context.Process(target=run_process, args=args) for args in job]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    return folder, configs


def test_losses_and_gradients_equal_those_of_one_process(world, pair):
    folder, configs = pair
    halves = [torch.load(folder / f"{rank}.pt") for rank in range(2)]
    for k, config in enumerate(configs):
        losses, gradients = run_one_step(config, world)
        for half in halves:
            assert half[k][0] == pytest.approx(losses, rel=1e-5)
            assert half[k][1].keys() == gradients.keys()
            for name, gradient in gradients.items():
                torch.testing.assert_close(
                    half[k][1][name], gradient, rtol=1e-4, atol=1e-5, msg=f"{config.loss}: {name}"
                )
    assert any("log_scale" in name for name in halves[0][0][1])


def test_gathered_rows_return_their_gradient_to_their_process(pair):
    """The gradient is doubled: the mean over two processes that follows makes it the sum."""
    folder, _ = pair
    assert torch.load(folder / "gathered-0.pt").tolist() == [[4.0, 4.0]]
    assert torch.load(folder / "gathered-1.pt").tolist() == [[6.0, 6.0], [10.0, 10.0]]


def test_training_in_two_processes_equals_one_up_to_rounding(world, pair, tmp_path):
    folder, configs = pair
    train(world, configs[0], tmp_path)
    files = [(run / "history.csv").read_text().splitlines() for run in (folder / "run", tmp_path)]
    rows = [list(csv.DictReader(lines)) for lines in files]
    assert len(rows[0]) == len(rows[1]) == configs[0].epochs
    for parallel, single in zip(*rows, strict=True):
        assert float(parallel["loss"]) == pytest.approx(float(single["loss"]), rel=1e-3)
    # Vectors are compared, not weights: the gradient of the bias of the keys is rounding only, and Adam amplifies it.
    names = [caption.id for caption in world.dataset.select_split("val").captions]
    models = [load_model(run) for run in (folder / "run", tmp_path)]
    parallel, single = (
        np.concatenate([part.vectors for _, part in embed_captions(m, world.tokens, names)]) for m in models
    )
    np.testing.assert_allclose(parallel, single, atol=5e-3)
    assert {path.name for path in folder.glob("epoch-*")} == {"epoch-0-1", "epoch-0-2"}


def test_torchrun_trains_a_plan(finished_pipeline, tmp_path):
    for folder in ("dataset", "stores"):
        shutil.copytree(finished_pipeline.plan.workspace / folder, tmp_path / "run" / folder)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command = [*launch, "pipeline.cli", "train", "--plan", str(small_plan(tmp_path)), "--set", "train.epochs=1"]
    process = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=200)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("model ") == process.stderr.count("epoch   1/1") == 1
    assert process.stderr.count("Training on ") == 1, "the settings that follow from the size are printed once"
    assert (Path(process.stdout.split()[-1]) / "model.json").is_file()


def test_other_commands_reject_torchrun(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    result = CliRunner().invoke(build_app(), ["evaluate", "--plan", str(small_plan(tmp_path))])
    assert isinstance(result.exception, ValueError)
    assert "Only `train` can run under torchrun" in str(result.exception)


# Output of torchrun 2.x for a process that was killed, and for one whose disk failed; shortened in the middle.
KILLED = """E1128 16:49:28 17333 torch/distributed/elastic/multiprocessing/api.py:1002] failed (exitcode: -9)
Failures:
[1]:
  exitcode  : -15 (pid: 17340)  (SIGTERM)
Root Cause (first observed failure):
[0]:
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 17341)  (SIGKILL)
"""
BROKE = """epoch 3
[rank1]:   File "/tmp/dies.py", line 8, in <module>
[rank1]: {error}
[rank0]: RuntimeError: [gloo/transport/tcp/pair.cc:561] Connection closed by peer [127.0.0.1]:41366.
W1128 16:49:48 17352 torch/distributed/elastic/multiprocessing/api.py:1028] Sending process 17359 closing signal SIGTERM
  File "site-packages/torch/distributed/launcher/api.py", line 386, in launch_agent
Root Cause (first observed failure):
[0]:
  exitcode  : 1 (pid: 17360)
"""


@pytest.mark.parametrize(
    ("lines", "error_class", "message"),
    [
        (KILLED, BrokenExecutor, "signal 9"),
        (BROKE.format(error="OSError: [Errno 5] Input/output error: 'last.pt'"), OSError, "Errno 5"),
        (BROKE.format(error="OSError: [Errno 28] No space left on device"), ValueError, "No space left"),
        (BROKE.format(error="ValueError: 'val' has no captions"), ValueError, "'val' has no captions"),
    ],
)
def test_make_failure_error_finds_the_cause_in_the_output(lines, error_class, message):
    error = make_failure_error("torchrun of x ended with code 1", lines.splitlines())
    assert type(error) is error_class
    assert message in str(error)
    assert "launch_agent" not in str(error), "the traceback of torchrun itself does not help"
