"""Jobs that go wrong, to be carried out by worker processes."""

import os
import signal
import time
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
    return job.name
