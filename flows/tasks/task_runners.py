"""Task runner of the flows: where the tasks of a stage run. TERN_TASK_RUNNER selects it.

threads    (default) tasks wait in threads of the run, and its worker processes run the jobs (`workers` of the plan)
processes  Prefect's process pool with TERN_TASK_RUNNER_WORKERS processes, by default one per CPU core
dask       the scheduler at TERN_DASK_ADDRESS, or a cluster on this machine; needs the extra `dask`
ray        the cluster at TERN_RAY_ADDRESS, or a cluster on this machine; needs the extra `ray`

Shards that need a GPU have the tag `gpu`. Its concurrency limit (`create_gpu_limit`) has TERN_GPU_SLOTS slots, by
default one, on every task runner. On Dask and Ray, such a shard also requests a GPU from its worker.

On all task runners except `threads`, only Prefect retries shards, and a shard has no time limit. Workers on other
machines need this package, and the workspace and the dataset under the same paths.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from data.settings import read_settings

GPU_TAG = "gpu"
MAX_THREADS = 256  # they only wait


def read_task_runner_name() -> str:
    """Read the name of the task runner from the settings; raises as `read_settings`."""
    return read_settings().task_runner


def make_task_runner() -> Any:
    """Make the task runner that the settings select.

    Raises:
        ImportError: The extra of the task runner is not installed.
    """
    settings = read_settings()
    name = settings.task_runner
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=MAX_THREADS)
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=settings.task_runner_workers or os.cpu_count() or 1)
    try:
        if name == "dask":
            from prefect_dask import DaskTaskRunner

            return DaskTaskRunner(address=settings.dask_address)
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(address=settings.ray_address)
    except ImportError as error:
        raise ImportError(
            f"TERN_TASK_RUNNER={name} needs the extra `{name}`. Run `pip install -e '.[flows,{name}]'`."
        ) from error


def read_gpu_slots() -> int:
    """Read the number of shards that may use GPUs at the same time (TERN_GPU_SLOTS).

    Raises the same errors as `read_settings`.

    The default is 1, because all runs of a worker use the first GPU that they see.
    """
    return read_settings().gpu_slots or 1


def request_gpu(needs_gpu: bool) -> AbstractContextManager[Any]:
    """Return a context in which submitted tasks request a GPU from their worker, if they need one.

    Dask workers have GPUs if they were started with `--resources GPU=1`; those of a cluster that a run starts were not.
    """
    if needs_gpu and read_task_runner_name() == "dask" and read_settings().dask_address:
        from dask import annotate

        return annotate(resources={"GPU": 1})
    if needs_gpu and read_task_runner_name() == "ray":
        from prefect_ray.context import remote_options

        return remote_options(num_gpus=1)
    return nullcontext()
