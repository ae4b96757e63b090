"""A run of all stages of the small plan, made once for all processes of a test run."""

import fcntl
import pickle
import shutil
from pathlib import Path

from pipeline.plans.load import load_plan
from pipeline.runs.runner import Finished, PipelineRunner
from tests.helpers.small_plan import small_plan

Jobs = list[tuple[str, object, object]]
"""(stage, job, result) of each job that a flow runs as a task."""


def open_finished_run(shared: Path, folder: Path) -> tuple[Finished, Jobs]:
    """Return the results of a run of all stages in `folder`, a copy of the run in `shared`.

    The first process makes the run, and the others wait for it. Each has a copy of its own, because some tests write
    into it.
    """
    shared.mkdir(exist_ok=True)
    recorded = shared / "jobs.pickle"
    with open(shared / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not recorded.exists():
            jobs = _run(shared)
            recorded.write_bytes(pickle.dumps(jobs))
    shutil.copytree(shared / "run", folder / "run")
    finished = PipelineRunner(load_plan(str(small_plan(folder)))).run_all()  # finds each stage finished
    return finished, pickle.loads(recorded.read_bytes())


def _run(folder: Path) -> Jobs:
    """Run all stages of the small plan; return the jobs."""
    jobs_run: Jobs = []

    def make_recording_map(stage):
        def map_and_record(function, jobs):
            for job in jobs:
                result = function(job)
                if stage not in ("draw scenes", "hash images"):  # a flow does not run these jobs as tasks
                    jobs_run.append((stage, job, result))
                yield result

        return map_and_record

    finished = PipelineRunner(load_plan(str(small_plan(folder))), make_recording_map).run_all()
    assert set(finished.evaluation.splits) == {"val", "test"}
    assert finished.index.is_file()
    return jobs_run
