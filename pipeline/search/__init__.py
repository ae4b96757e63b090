"""Sub-package `pipeline.search`."""

from pipeline.search.searcher import Searcher

__all__ = [
    "Searcher",
]
