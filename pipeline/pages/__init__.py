"""Sub-package `pipeline.pages`."""

from pipeline.pages.cards import to_data_uri
from pipeline.pages.gallery import render_contact_sheet
from pipeline.pages.report import write_report

__all__ = [
    "render_contact_sheet",
    "to_data_uri",
    "write_report",
]
