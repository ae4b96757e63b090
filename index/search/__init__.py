"""Sub-package `index.search`."""

from index.search.hot_reload import HotReloader
from index.search.index import Index, IndexHit

__all__ = [
    "HotReloader",
    "Index",
    "IndexHit",
]
