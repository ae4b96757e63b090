"""Find the page of a TIFF that has the picture: the first page may be a reduced copy (DNG, cameras) or a mask."""

import io
import struct

from PIL import Image, UnidentifiedImageError

from data.images.jpeg import check_part

NEW_SUBFILE_TYPE, OLD_SUBFILE_TYPE, SUB_IFDS = 254, 255, 330  # tags; TIFF 6.0, section 8, and TIFF technical note 1
COMPRESSION, JPEG_TABLES, JPEG = 259, 347, 7  # tags, and a value; TIFF technical note 2
REDUCED_OR_MASK = 1 | 4  # bits of NewSubfileType
OLD_REDUCED = 2
MAX_PAGES = 64


def open_full_page(content: bytes, image: Image.Image) -> Image.Image:
    """Return the first page of a TIFF that is neither a reduced copy nor a mask.

    Args:
        content: Bytes of the file.
        image: The open file, at its first page.

    Returns:
        The open file at that page, which is the first one if the file has no other picture.

    Raises:
        ValueError: The first page is a reduced copy, and the full page cannot be read.
    """
    if not _is_part(image):
        return image
    offsets = image.tag_v2.get(SUB_IFDS, ())  # type: ignore[attr-defined]  # of a TiffImageFile
    for number in range(1, MAX_PAGES):
        try:
            image.seek(number)
        except EOFError:
            break
        if not _is_part(image):
            return image
    pages = [_open_at(content, offset) for offset in (offsets if isinstance(offsets, tuple) else (offsets,))]
    for page in pages:
        if page is not None and not _is_part(page):
            return page
    if None in pages:
        raise ValueError("its first page is a reduced copy, and its full page cannot be read; save it as TIFF or JPEG")
    image.seek(0)
    return image


def check_jpeg_parts(content: bytes, image: Image.Image) -> None:
    """Check the strips or tiles of a page that are compressed as JPEG; libtiff reads half of one as gray.

    Raises:
        ValueError: The data of a strip or tile end before its last pixel.
    """
    tags = image.tag_v2  # type: ignore[attr-defined]  # of a TiffImageFile
    if tags.get(COMPRESSION) != JPEG:
        return
    tables = tags.get(JPEG_TABLES, b"\xff\xd8\xff\xd9")
    offsets, counts = (tags.get(strip, tags.get(tile, ())) for strip, tile in ((273, 324), (279, 325)))
    for offset, count in zip(offsets, counts, strict=False):
        check_part(tables[:-2] + content[offset + 2 : offset + count])


def _open_at(content: bytes, offset: int) -> Image.Image | None:
    """Open the page whose directory is at an offset; None if it cannot be read, such as the raw data of a DNG."""
    order = "<" if content[:2] == b"II" else ">"
    is_big = struct.unpack(f"{order}H", content[2:4]) == (43,)
    start, form = (8, "Q") if is_big else (4, "I")
    head = content[:start] + struct.pack(order + form, offset)
    try:
        return Image.open(io.BytesIO(head + content[len(head) :]), formats=("TIFF",))
    except UnidentifiedImageError:
        return None


def _is_part(image: Image.Image) -> bool:
    tags = image.tag_v2  # type: ignore[attr-defined]  # of a TiffImageFile
    return bool(tags.get(NEW_SUBFILE_TYPE, 0) & REDUCED_OR_MASK) or tags.get(OLD_SUBFILE_TYPE) == OLD_REDUCED
