"""One process of a training by torchrun: `python -m pipeline.runs.torchrun_worker PLAN KEY=VALUE ...`.

It prints the progress of each training epoch as a line of JSON. A separate module, because Python warns about a module
that runs as the main program after its package has imported it.
"""

import sys

from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.runs.torchrun_training import train_together
from pipeline.workers import make_process_map


def main() -> None:
    """Train the plan of the command line together with the other processes."""
    plan = load_plan(sys.argv[1], tuple(sys.argv[2:]))
    runner = PipelineRunner(
        plan,
        lambda stage: make_process_map(plan.workers, stage),
        lambda progress: print(progress.model_dump_json(), flush=True),
    )
    train_together(runner)


if __name__ == "__main__":
    main()
