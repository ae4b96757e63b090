"""Render the templates of the pages; used by all pages and by the search service."""

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape

from data.text import printable_lines
from pipeline.pages.card_words import REGION_COLORS


def _make_visible(value: object) -> object:
    """Make a text of a data file visible; a value that a template has escaped itself (`|e`) stays as it is."""
    return printable_lines(value) if type(value) is str else value


# Captions and file names come from data files, so everything is escaped. A name that a template misspells raises.
_TEMPLATES = Environment(
    loader=PackageLoader("pipeline.pages"),
    autoescape=select_autoescape(),
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=StrictUndefined,
    finalize=_make_visible,
)
_TEMPLATES.globals |= {"region_colors": REGION_COLORS}


def render_page(template: str, **values: object) -> str:
    """Render the HTML page of a template, such as `report.html`, with the given values."""
    return _TEMPLATES.get_template(template).render(values)
