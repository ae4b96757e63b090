"""Write the copies among the images of an index as one page, or as JSON. Used by `tern duplicates`."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from data.io import write_text
from data.text import printable
from index.quality import Duplicate, DuplicateGroup
from pipeline.pages.cards import SMALL_THUMBNAIL, HitCard, make_card, make_thumbnail, to_data_uri
from pipeline.pages.render import render_page
from pipeline.search.hits import Hit
from pipeline.search.image_files import find_image_file

MAX_IMAGES = 12  # of a group that a page shows


@dataclass(frozen=True)
class GroupRow:
    """A group of copies as the template shows it."""

    title: str
    cards: tuple[HitCard, ...]
    """The largest image in a green frame, then its copies."""
    num_hidden: int
    """Number of its images that are not shown."""


def format_group(group: DuplicateGroup) -> str:
    """Return a group as one line of JSON, in ASCII."""
    images = [
        {
            "id": image.row.id,
            "path": image.row.path,
            "split": image.row.split,
            "width": image.row.width,
            "height": image.row.height,
            "size_bytes": image.size_bytes,
            "content_hash": image.row.content_hash,
            "cosine": round(image.cosine, 4),
            "is_exact": image.is_exact,
        }
        for image in group.images
    ]
    record = {"is_exact": group.is_exact, "is_leak": group.is_leak, "splits": group.splits, "images": images}
    return json.dumps(record, allow_nan=False)


def describe_group(group: DuplicateGroup) -> str:
    """Describe a group, such as "3 images, near copies, in the splits test and train"."""
    kind = "equal content" if group.is_exact else "near copies"
    splits = f", in the splits {' and '.join(group.splits)}" if group.is_leak else ""
    return f"{len(group.images):,} images, {kind}{splits}"


def describe_image(image: Duplicate, is_first: bool) -> str:
    """Describe an image of a group, such as "near copy, 500 x 375 pixels, 120 kB, split train"."""
    row = image.row
    parts = ["largest" if is_first else "same content" if image.is_exact else "near copy"]
    if row.width and row.height:
        parts.append(f"{row.width} x {row.height} pixels")
    parts.append("no file" if image.size_bytes is None else f"{max(1, round(image.size_bytes / 1000)):,} kB")
    if row.split:
        parts.append(f"split {row.split}")
    return ", ".join(parts)


def write_duplicates(
    path: Path,
    groups: Sequence[DuplicateGroup],
    image_root: Path | None,
    min_cosine: float,
    limit: int,
    on_progress: Callable[[int], object] = lambda count: None,
) -> Path:
    """Write the first groups as one page that needs no other file.

    Args:
        path: File to write.
        groups: All groups, in the order of the page.
        image_root: Folder of images; None if it is not known, and the page has no pictures.
        min_cosine: Threshold that the groups were found with.
        limit: Maximum number of groups on the page; a group has at most `MAX_IMAGES` pictures.
        on_progress: Called with 1 after each group.
    """
    rows = []
    for group in groups[:limit]:
        cards = tuple(_make_card(image, image is group.images[0], image_root) for image in group.images[:MAX_IMAGES])
        cards = (replace(cards[0], is_relevant=True), *cards[1:])
        rows.append(GroupRow(printable(describe_group(group)), cards, len(group.images) - len(cards)))
        on_progress(1)
    page = render_page(
        "duplicates.html",
        rows=rows,
        num_groups=len(groups),
        num_copies=sum(len(group.images) - 1 for group in groups),
        num_leaks=sum(group.is_leak for group in groups),
        min_cosine=min_cosine,
    )
    return write_text(path, page)


def _make_card(image: Duplicate, is_first: bool, image_root: Path | None) -> HitCard:
    file = find_image_file(image_root, image.row)
    hit = Hit(printable(image.row.id), image.cosine, file or Path(), (printable(describe_image(image, is_first)),))
    return make_card(hit, image=to_data_uri(make_thumbnail(hit, SMALL_THUMBNAIL)))
