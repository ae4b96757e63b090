"""Where the tasks of a stage run, by one setting: TERN_TASK_RUNNER = threads (default), processes, dask or ray.

threads    tasks wait on threads of the run, its own worker processes work (`workers` of the plan)
processes  Prefect's process pool; TERN_TASK_RUNNER_WORKERS processes, or as many as there are cores
dask       the scheduler at TERN_DASK_ADDRESS, or a cluster on this machine; the extra `dask`
ray        the cluster at TERN_RAY_ADDRESS, or one on this machine; the extra `ray`

Shards that need a GPU carry the tag `gpu`, whose concurrency limit (`limit_gpu_tasks`) has TERN_GPU_SLOTS slots or one: they
wait for one on whatever engine. On Dask and Ray each asks its worker for one besides.

Elsewhere than on threads, retries are Prefect's alone and a shard has no time limit. Workers on other machines need
this package, and the workspace and the dataset under the same paths.
"""

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

from data.settings import read_settings

GPU_TAG = "gpu"  # the tag of a shard that needs one


def read_task_runner_name() -> str:
    """Read the name of the task runner from the settings; raises as `read_settings`."""
    return read_settings().task_runner


def make_task_runner() -> Any:
    """The task runner of the engine. Raises ImportError naming the extra that is missing."""
    settings = read_settings()
    name = settings.task_runner
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=256)  # they only wait
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
            f"TERN_TASK_RUNNER={name} needs the extra `{name}`: pip install -e '.[flows,{name}]'"
        ) from error


def read_gpu_slots() -> int:
    """Shards that may use a GPU at a time: TERN_GPU_SLOTS, or one, since a worker's runs all use the first GPU they see.

    Raises as `read_settings`.
    """
    return read_settings().gpu_slots or 1


def request_gpu(gpu: bool) -> AbstractContextManager[Any]:
    """Tasks submitted inside ask their worker for a GPU if `gpu`, where the engine's workers say whether they have one.

    Dask's do if they were started with `--resources GPU=1`; those of a cluster of the run's own are not.
    """
    if gpu and read_task_runner_name() == "dask" and read_settings().dask_address:
        from dask import annotate

        return annotate(resources={"GPU": 1})
    if gpu and read_task_runner_name() == "ray":
        from prefect_ray.context import remote_options

        return remote_options(num_gpus=1)
    return nullcontext()
