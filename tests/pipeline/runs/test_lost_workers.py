"""A worker process that is lost ends the stage with its cause, what is finished, and the next step."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import BrokenExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from data.io import describe_error
from pipeline import workers
from pipeline.plans import load_plan
from pipeline.runs import PipelineRunner
from pipeline.workers import make_process_map
from tests.helpers.forks import ROOT
from tests.helpers.lost_workers import Job, work
from tests.helpers.small_plan import small_plan

pytestmark = pytest.mark.slow

CAUSES = {
    "dies-killed": r"was killed \(signal 9\), most often because memory is exhausted",
    "dies-crashed": "ended by signal 11",
    "dies-exits": "ended with code 3",
}


@pytest.mark.parametrize("name", CAUSES)
def test_lost_worker_is_reported_with_what_is_finished(name, tmp_path, monkeypatch):
    @contextmanager
    def progress_bar(label, total):
        done = []

        def advance(number):
            done.append(number)
            if sum(done) == 2:
                (tmp_path / "go").touch()

        yield advance

    monkeypatch.setattr(workers, "progress_bar", progress_bar)
    jobs = [Job(tmp_path, job) for job in ("a", "b", name)]
    with pytest.raises(BrokenExecutor, match=CAUSES[name]) as found:
        make_process_map(2, "region features")(work, jobs)
    message = describe_error(found.value)
    assert "2 of 3 items of the stage 'region features' are finished" in message
    assert "Run the same command again: finished shards are kept" in message
    assert "--set workers=1" in message
    assert "\n" not in message


def test_exhausted_memory_of_a_worker_is_said(tmp_path):
    with pytest.raises(MemoryError) as found:
        make_process_map(2, "x")(work, [Job(tmp_path, "a"), Job(tmp_path, "memory")])
    assert describe_error(found.value).startswith("Memory is exhausted")


INTERRUPTED = """
import sys
from pathlib import Path
from pipeline.cli import app
from pipeline.workers import make_process_map
from tests.helpers.lost_workers import Job, work
from tests.helpers.small_plan import small_plan

if __name__ == "__main__":
    jobs = [Job(Path(sys.argv.pop()), "waits")] * 4
    app.build_app = lambda *_: lambda *_, **__: make_process_map(2, "x")(work, jobs)
    app.main()
"""


def test_interrupted_stage_ends_at_once_without_a_traceback(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(INTERRUPTED)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(script), str(tmp_path)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as process:
        deadline = time.monotonic() + 100
        while len(list(Path(tmp_path).glob("started-*"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.1)
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does for Ctrl-C
        output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "Traceback" not in output


def test_next_run_says_what_an_interrupted_one_has_left(tmp_path, caplog):
    def stop_after_one(function, jobs):
        for number, job in enumerate(jobs):
            if number == 1 and hasattr(job, "plan"):  # a shard, and not a scene to draw
                raise BrokenExecutor("killed")
            yield function(job)

    plan = load_plan(str(small_plan(tmp_path)))
    runner = PipelineRunner(plan, lambda stage: stop_after_one)
    dataset = runner.load_dataset()
    with pytest.raises(BrokenExecutor):
        runner.extract(dataset)
    with caplog.at_level("INFO", "pipeline"):
        PipelineRunner(plan).extract(dataset)
        PipelineRunner(plan).extract(dataset)
    (message,) = [record.getMessage() for record in caplog.records]
    assert message.startswith("regions-")
    assert message.endswith(": 10 of 36 are done, 26 to do")
