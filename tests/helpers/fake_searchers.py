"""Searchers without models: they find nothing, fail, or wait; for tests of what the service does around them."""

import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from pipeline.search.hits import Answer


class FakeSearcher:
    """Answers each query with no hits, or with the error that it was made with.

    `passes` has the queries of each call.
    """

    def __init__(self, error=None, version=7):
        self.index = SimpleNamespace(
            root=Path("/nothing"),
            version=version,
            manifest=SimpleNamespace(is_rejected=False, collections={}, provenance={}, columns={}),
            kinds=("image", "caption"),
            get_metadata=lambda ids, kind="image": {},
            get_metadata_by_image=lambda kind, image_ids: {},
            collection=lambda kind: SimpleNamespace(
                rows=SimpleNamespace(lookups=(), deleted_keys=frozenset()),
                manifest=SimpleNamespace(calibration=None),
                row_vectors=None,
            ),
        )
        self.plan = SimpleNamespace(demo=True, regions=None)
        self.note, self.accepts_photos, self.stored_images = "", True, None
        self.error, self.passes = error, []

    def answer(self, requests, on_stage=None):
        self.passes.append([request.query for request in requests])
        if isinstance(self.error, ValueError):
            return [self.error] * len(requests)
        if self.error is not None:
            raise self.error
        return [Answer(()) for _ in requests]

    def find_image(self, image_id):
        return None


class FakeReloader:
    """Lends one searcher for all versions."""

    def __init__(self, searcher, root):
        self.served, self.root, self.last_error = searcher, root, None

    @contextmanager
    def borrow(self, version=None):
        yield self.served

    def close(self):
        """Nothing is open."""


def wait_until_ready(client, seconds=20):
    """Wait until the service has answered its first query; return its last status of readiness."""
    end = time.monotonic() + seconds
    while (answer := client.get("/readyz")).status_code != 200 and time.monotonic() < end:
        time.sleep(0.01)
    return answer
