"""Results in, HTML pages and images out: report, misses, galleries and tuning tables. Every page is one file.

The sub-package is independent of the command line and of Prefect. The pages of a run import torch, so they are
imported at first use: the search service needs none of them.
"""

from typing import TYPE_CHECKING

from pipeline.pages.cards import to_data_uri
from pipeline.pages.gallery import render_contact_sheet, write_gallery

if TYPE_CHECKING:
    from pipeline.pages.misses import find_misses, write_misses
    from pipeline.pages.report import write_report
    from pipeline.pages.tuning import format_table, plot_advice

__all__ = [
    "find_misses",
    "format_table",
    "plot_advice",
    "render_contact_sheet",
    "to_data_uri",
    "write_gallery",
    "write_misses",
    "write_report",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'pipeline.pages' has no attribute {name!r}")
    from pipeline.pages import misses, report, tuning  # lazy: they import torch

    return next(getattr(module, name) for module in (misses, report, tuning) if hasattr(module, name))
