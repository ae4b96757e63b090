"""HTML of hits for notebooks: a fragment that needs no style sheet, no script and no other file."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from data.text import printable

THUMBNAIL = (
    224,
    168,
)  # width and height in pixels; about 10 kB as a JPEG: 24 take 330 kB of a notebook
MAX_CARDS = 24  # further hits are counted only: a notebook keeps what it shows
MAX_CAPTIONS = 2
MAX_CHARACTERS = 160  # of a caption or an id
CELL = "display:inline-block;vertical-align:top;width:224px;margin:0 12px 12px 0;font:12px/1.4 sans-serif"
FRAME = "display:block;width:224px;height:168px;object-fit:contain;background:rgba(128,128,128,.15)"


@dataclass(frozen=True)
class NotebookCard:
    """What a notebook shows of a hit."""

    path: Path
    """Image file."""
    name: str
    """Id of the image or caption."""
    score: float
    probability: float | None
    """Chance that the hit is right, 0 to 1; None if it is unknown."""
    captions: tuple[str, ...]
    is_weak: bool = False
    """Whether the probability is below the minimum of the search."""


def render_cards(cards: Sequence[NotebookCard], note: str = "") -> str:
    """Render hits as HTML, with thumbnails as data URIs.

    Args:
        cards: Hits, best first; at most `MAX_CARDS` are shown.
        note: What a person should know of the query; or empty.
    """
    rest = len(cards) - MAX_CARDS
    parts = [f"<p>{escape(printable(note))}</p>" if note else ""]
    parts += [_render_card(card, rank) for rank, card in enumerate(cards[:MAX_CARDS], 1)]
    parts.append(f"<p>{rest:,} more hits are not shown.</p>" if rest > 0 else "")
    return f"<div>{''.join(parts) or '<p>There are no hits.</p>'}</div>"


def _render_card(card: NotebookCard, rank: int) -> str:
    lines = [f"<b>{rank}</b> {card.score:.3f}"]
    if card.probability is not None:
        lines[0] += f" · {card.probability:.0%}"
    if card.is_weak:
        lines[0] += " · weak"
    lines += [f"<code>{_shorten(card.name)}</code>", *map(_shorten, card.captions[:MAX_CAPTIONS])]
    opacity = ";opacity:.6" if card.is_weak else ""
    return f'<div style="{CELL}{opacity}">{_render_thumbnail(card)}{"<br>".join(lines)}</div>'


def _render_thumbnail(card: NotebookCard) -> str:
    from data.images import encode_thumbnail  # lazy: a search needs no Pillow, only a notebook that shows hits does

    content = encode_thumbnail(card.path, THUMBNAIL)
    if content is None:
        return f'<div style="{FRAME}"></div>'
    uri = "data:image/jpeg;base64," + base64.b64encode(content).decode()
    return f'<img style="{FRAME}" src="{uri}" alt="{_shorten(card.name)}">'


def _shorten(text: str) -> str:
    """Return the first `MAX_CHARACTERS` of a text of a data file, visible and escaped."""
    shown = printable(text)
    return escape(shown if len(shown) <= MAX_CHARACTERS else shown[: MAX_CHARACTERS - 1] + "…")
