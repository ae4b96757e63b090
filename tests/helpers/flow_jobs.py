"""Jobs that go wrong, to be carried out by worker processes."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path


def counted(job: Path) -> str:
    """One more line in the job's file; then what the file's name says happens."""
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
        appears(job.with_name(f"go-{job.name}"))
    return job.name


def appears(path: Path) -> None:
    """Return when a file is there. Raises RuntimeError after two minutes."""
    for _ in range(12_000):
        if path.exists():
            return
        time.sleep(0.01)
    raise RuntimeError(f"no {path.name} within two minutes")


@dataclass(frozen=True)
class OnDevice:
    """A job that needs a GPU, in a folder that it shares with others."""

    folder: Path
    number: int
    uses_gpu = True


def alone(job: OnDevice) -> str:
    """Fails if another of this process is in the folder at the same time."""
    taken = job.folder / f"taken-{os.getpid()}"
    taken.touch(exist_ok=False)
    time.sleep(0.2)
    taken.unlink()
    return str(job.number)


def together(job: OnDevice) -> str:
    """Fails if the other one of two is not in the folder at the same time."""
    (job.folder / f"met-{job.number}").touch()
    appears(job.folder / f"met-{1 - job.number}")
    return str(job.number)
