"""Index faults of `tests`."""

import resource
from contextlib import contextmanager
from pathlib import Path

from index.search.index import Index
from index.versions.switch import verify_version
from tests.helpers.index_live import K
from tests.helpers.index_world import make

QUERIES = make(0, images=60)[1]["image"][:4]


def answers_rightly(root: Path, right: dict[int, list[list[str]]]) -> None:
    """The served version is whole, and answers as exact search over its vectors does."""
    verify_version(root)
    with Index.open(root) as index:
        answer = [[hit.id for hit in line] for line in index.search(QUERIES, K)]
        assert answer == right[index.manifest["provenance"]["seed"]]


@contextmanager
def files_of_at_most(size: int):
    """As a full disk: no file may grow beyond `size` bytes. (Python has the signal ignored, so writing fails.)"""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
