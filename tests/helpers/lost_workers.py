"""Jobs that end their worker process, for tests of the process map."""

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from tests.helpers.flow_jobs import wait_for_file


@dataclass(frozen=True)
class Job:
    """A job of a class of this project, so that its worker is forked as those of a stage are."""

    folder: Path
    name: str


def work(job: Job) -> str:
    """Return the name of a job at once; or end the process as its name says, when the file `go` exists."""
    if job.name == "waits":
        (job.folder / f"started-{os.getpid()}").touch()
        wait_for_file(job.folder / "never")
    if job.name.startswith("dies"):
        wait_for_file(job.folder / "go")
    if job.name == "dies-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "dies-crashed":
        os.kill(os.getpid(), signal.SIGSEGV)
    if job.name == "dies-exits":
        os._exit(3)
    if job.name == "memory":
        raise MemoryError
    return job.name
