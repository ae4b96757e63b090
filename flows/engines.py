"""Where the tasks of a stage run, by one setting: TERN_ENGINE = threads (default), processes, dask or ray.

threads    tasks wait on threads of the run, its own worker processes work (`workers` of the plan)
processes  Prefect's process pool; TERN_ENGINE_WORKERS processes, or as many as there are cores
dask       the scheduler at TERN_DASK_ADDRESS, or a cluster on this machine; the extra `dask`
ray        the cluster at TERN_RAY_ADDRESS, or one on this machine; the extra `ray`

Elsewhere than on threads, retries are Prefect's alone and a shard has no time limit. Workers on other machines need
this package, and the workspace and the data set under the same paths.
"""

import os
from typing import Any

from prefect.task_runners import ProcessPoolTaskRunner, ThreadPoolTaskRunner

ENGINES = ("threads", "processes", "dask", "ray")


def engine() -> str:
    """The engine that is set. Raises ValueError for one that there is not."""
    name = os.environ.get("TERN_ENGINE", ENGINES[0])
    if name not in ENGINES:
        raise ValueError(f"TERN_ENGINE={name!r}: there are {', '.join(ENGINES)}.")
    return name


def runner() -> Any:
    """The task runner of the engine. Raises ImportError naming the extra that is missing."""
    name = engine()
    if name == "threads":
        return ThreadPoolTaskRunner(max_workers=256)  # they only wait
    if name == "processes":
        return ProcessPoolTaskRunner(max_workers=int(os.environ.get("TERN_ENGINE_WORKERS", os.cpu_count() or 1)))
    try:
        if name == "dask":
            from prefect_dask import DaskTaskRunner

            return DaskTaskRunner(address=os.environ.get("TERN_DASK_ADDRESS"))
        from prefect_ray import RayTaskRunner

        return RayTaskRunner(address=os.environ.get("TERN_RAY_ADDRESS"))
    except ImportError as error:
        raise ImportError(f"TERN_ENGINE={name} needs the extra `{name}`: pip install -e '.[flows,{name}]'") from error
