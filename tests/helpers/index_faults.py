"""Check of the published version after a fault, and a limit of the file size that acts like a full disk."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from index.search.index import Index
from index.versions.switch import verify_version
from tests.helpers.index_live import K
from tests.helpers.index_world import make

QUERIES = make(0, images=60)[1]["image"][:4]


def assert_correct_answers(root: Path, expected_ids: dict[int, list[list[str]]]) -> None:
    """Assert that the published version verifies and returns the exact results of its own vectors."""
    verify_version(root)
    with Index.open(root) as index:
        ids = [[hit.id for hit in line] for line in index.search(QUERIES, K)]
        assert ids == expected_ids[index.manifest.provenance["seed"]]


@contextmanager
def limit_file_size(num_bytes: int) -> Iterator[None]:
    """Make writes beyond a file size fail, as on a full disk (Python ignores the signal, so the write call fails)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
