"""Results in, HTML pages and images out: report, misses, galleries and tuning tables. Every page is one file.

The sub-package is independent of the command line and of Prefect.
"""

from pipeline.pages.cards import to_data_uri
from pipeline.pages.gallery import render_contact_sheet, write_gallery
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
