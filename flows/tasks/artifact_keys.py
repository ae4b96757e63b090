"""Keys of artifacts: each dataset and workspace has its own, so that Prefect does not mix their histories."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

from data.io import digest
from pipeline.plans import Plan

_PREFIX: ContextVar[str] = ContextVar("artifact_key_prefix", default="")


def make_key_prefix(plan: Plan) -> str:
    """Return the prefix of the keys of a plan: name of its dataset, and 6 digits of the path of its workspace."""
    slug = re.sub(r"[^a-z0-9]+", "-", plan.dataset_name.lower()).strip("-")[:60]  # what Prefect accepts as a key
    return f"{slug or 'dataset'}-{digest(str(Path(plan.workspace).resolve()))[:6]}-"


@contextmanager
def artifact_keys_of(plan: Plan) -> Iterator[None]:
    """Give all artifacts that are created in this block keys of a plan."""
    token = _PREFIX.set(make_key_prefix(plan))
    try:
        yield
    finally:
        _PREFIX.reset(token)


def make_key(name: str) -> str:
    """Return the key of an artifact, such as `demo-0a1b2c-metrics`."""
    return f"{_PREFIX.get()}{name}"
