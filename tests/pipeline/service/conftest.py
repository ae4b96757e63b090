"""What the tests of the service share: a searcher of the finished pipeline."""

import pytest

from pipeline.search.searcher import Searcher


@pytest.fixture(scope="module")
def searcher(finished_pipeline):
    return Searcher(finished_pipeline.plan)
