"""Settings of the process, read from environment variables: `TERN_*`, and the user's folders for data and caches."""

import os
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

PREFIX = "TERN_"
FOREIGN_PREFIXES = ("TERN_TEST_", "TERN_UP")  # read by the tests only


class Settings(BaseModel):
    """Settings that hold for a process and not for a plan.

    The environment variable of `task_runner` is `TERN_TASK_RUNNER`, and so on. An empty variable means the default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task_runner: Literal["threads", "processes", "dask", "ray"] = "threads"
    """Task runner of the flows: threads of the run, Prefect's process pool, a Dask cluster or a Ray cluster."""
    task_runner_workers: int | None = Field(None, ge=1)
    """Number of processes of the task runner `processes`; None means one per CPU core."""
    dask_address: str | None = None
    """Address of the Dask scheduler; None starts a cluster for each run."""
    ray_address: str | None = None
    """Address of the Ray cluster; None starts a cluster for each run."""
    gpu_slots: int | None = Field(None, ge=1)
    """Number of shards that may use GPUs at the same time; None means 1, and keeps a limit that was set in Prefect."""
    run_timeout_hours: float = Field(72.0, gt=0)
    """Maximum duration of one flow run, in hours; read when `flows.flows` is imported."""
    shard_timeout_minutes: float = Field(60.0, gt=0)
    """Maximum duration of one shard, in minutes."""
    lock_timeout_minutes: float = Field(60.0, ge=0)
    """Maximum time to wait for another process that holds a write lock, in minutes; 0 fails at once."""
    on_failure: str = ""
    """Command to run when a flow run fails, crashes or is cancelled; an empty text runs none."""
    tokens: str = ""
    """Bearer tokens that `tern serve` accepts, separated by spaces; used together with those of `--tokens`."""
    thumbnail_cache_mb: int = Field(512, ge=0)
    """Maximum size of the thumbnails that `tern serve` keeps on disk, in MB; 0 keeps none there."""
    index_device: Literal["auto", "cpu"] = "auto"
    """Device for k-means, list assignment and exact search: a GPU if there is one, or the CPU."""


def find_cache_folder() -> Path:
    """Return the folder of this program for files that it can recompute: `tern` below `$XDG_CACHE_HOME` or `~/.cache`.

    As the XDG Base Directory Specification says, a relative path in the variable does not count.
    """
    return _find_user_folder("XDG_CACHE_HOME", ".cache")


def find_data_folder() -> Path:
    """Return the folder of this program for data to keep: `tern` below `$XDG_DATA_HOME` or `~/.local/share`."""
    return _find_user_folder("XDG_DATA_HOME", ".local/share")


def _find_user_folder(variable: str, default: str) -> Path:
    folder = Path(os.environ.get(variable, ""))
    return (folder if folder.is_absolute() else Path.home() / default) / "tern"


def variable_name(field: str) -> str:
    """Return the environment variable of a field of `Settings`."""
    return PREFIX + field.upper()


def read_settings() -> Settings:
    """Read the settings from the environment, at each call.

    Raises:
        ValueError: A `TERN_*` variable is unknown, or its value is not valid; the message has the variable.
    """
    variables = {variable_name(field): field for field in Settings.model_fields}
    values = {name: value for name, value in os.environ.items() if name.startswith(PREFIX)}
    for name in sorted(values):
        if name not in variables and not name.startswith(FOREIGN_PREFIXES):
            nearest = get_close_matches(name, variables, n=1, cutoff=0)[0]
            raise ValueError(
                f"The environment variable {name} is unknown; the nearest known one is {nearest}. Rename it; "
                f"the variables are {', '.join(variables)}."
            )
    try:
        return Settings.model_validate({field: values[name] for name, field in variables.items() if values.get(name)})
    except ValidationError as error:
        first = error.errors()[0]
        name = variable_name(str(first["loc"][0]))
        raise ValueError(
            f"The environment variable {name} is {first['input']!r}; {_describe(first['msg'])}. Change or unset it."
        ) from error


def _describe(message: str) -> str:
    """Convert a message of pydantic, "Input should be ...", to "it must be ..."."""
    return message.replace("Input should be", "it must be").partition(", unable to")[0]
