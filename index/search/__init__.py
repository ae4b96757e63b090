"""Sub-package `index.search`."""

from index.search.hot_reload import HotReloader
from index.search.index import Index

__all__ = [
    "HotReloader",
    "Index",
]
