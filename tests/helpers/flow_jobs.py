"""Jobs that fail or wait in worker processes, for tests of flows."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


def run_counted(job: Path) -> str:
    """Add a line to the job's file, then behave as its name says: die, fail, sleep or wait."""
    with open(job, "a") as file:
        file.write("called\n")
    calls = len(job.read_text().splitlines())
    if job.name == "dies-once" and calls == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "busy-once" and calls == 1:
        raise BlockingIOError(11, "the disk is busy")
    if job.name == "bad":
        raise ValueError("the plan is bad")
    if job.name == "slow":
        time.sleep(60)
    if job.name.startswith("waits"):
        wait_for_file(job.with_name(f"go-{job.name}"))
    return job.name


def wait_for_file(path: Path) -> None:
    """Wait until a file exists. Raises RuntimeError after two minutes."""
    for _ in range(12_000):
        if path.exists():
            return
        time.sleep(0.01)
    raise RuntimeError(f"{path.name} does not exist after two minutes")


@dataclass(frozen=True)
class OnDevice:
    """A job that needs a GPU; jobs of one folder see each other."""

    folder: Path
    number: int
    uses_gpu = True


def run_alone(job: OnDevice) -> str:
    """Run a job; raise FileExistsError if another one runs in this process at the same time."""
    taken = job.folder / f"taken-{os.getpid()}"
    taken.touch(exist_ok=False)
    time.sleep(0.2)
    taken.unlink()
    return str(job.number)


def run_together(job: OnDevice) -> str:
    """Run one of two jobs; raise RuntimeError if the other one does not run at the same time."""
    (job.folder / f"met-{job.number}").touch()
    wait_for_file(job.folder / f"met-{1 - job.number}")
    return str(job.number)
