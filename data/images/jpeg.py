"""Find out whether a JPEG has data for all of its pixels. Pillow does not report libjpeg's warnings.

libjpeg fills missing data with gray and warns "premature end of data segment". Most files are checked by a header with
one more row of blocks: where all data are there, the first block of that row begins with the color of the block before
it; where a bit is missing, libjpeg has noticed, and the row is gray. A file for which this says nothing is checked by
random data after its last scan: a decoder that has all data ignores them, one that lacks data changes the picture.
"""

import io
import random
import re
from dataclasses import dataclass, field

from PIL import Image, ImageChops

MAX_SCANS = 500  # a progressive file has about ten; 31 more bytes make the decoder process all pixels once more
NEXT_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
BASELINE, PROGRESSIVE = (0xC0, 0xC1), 0xC2
NOISE = bytes(random.Random(0).choices(range(255), k=2048))  # without 0xFF, which begins a marker
# Where the data stop before a restart marker, the decoder skips noise up to the next one.
FILLER = NOISE + 2 * b"".join(bytes((0xFF, 0xD0 + number)) + NOISE[:256] for number in range(8))
NUM_ZEROS = 64  # bytes before the end marker; a valid file may have some, as padding
MAX_HEIGHT = 65_535  # of a frame header
GRAY = 128  # a block without data
DRAFT_SCALE = 8  # a draft needs one of 64 coefficients of a baseline file, and a tenth of the time


@dataclass
class JpegStructure:
    """Frame, scans and end of the first image of a JPEG file."""

    frame: int = 0
    """Marker of the frame header; 0 if there is none."""
    num_scans: int = 0
    end: int = -1
    """Position of the end marker; -1 if there is none."""
    height_position: int = 0
    """Position of the height in the frame header, of two bytes."""
    block_rows: int = 1
    """Number of rows of eight pixels of the blocks that stand together in the data; 1 for a gray image."""
    missing_bits: dict[int, list[int]] = field(default_factory=dict)
    """By component, the number of low bits of each of the 64 coefficients that no scan has; 99 for all bits."""

    def add_segment(self, marker: int, data: bytes, position: int) -> None:
        """Add a marker and the bytes after its length, which begin at a position of the file."""
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and not self.frame:
            self.frame, self.height_position = marker, position + 1
            self.missing_bits = {component: [99] * 64 for component in data[6::3]}
            if len(self.missing_bits) > 1:
                self.block_rows = max(factors & 15 for factors in data[7::3])
        elif marker == START_OF_SCAN and len(data) >= 4:
            self.num_scans += 1
            components, (first, last, bits) = data[1 : 1 + 2 * data[0] : 2], data[-3:]
            for missing in (self.missing_bits[c] for c in components if c in self.missing_bits):
                missing[first : last + 1] = [bits & 15] * len(missing[first : last + 1])


def read_structure(content: bytes) -> JpegStructure:
    """Read the segments of a JPEG up to its end marker, without thumbnails and trailing bytes."""
    structure, position = JpegStructure(), 2
    while marker := NEXT_MARKER.search(content, position):
        if marker[0][1] == END_OF_IMAGE:
            structure.end = marker.start()
            break
        position = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2], "big")
        structure.add_segment(marker[0][1], content[marker.end() + 2 : position], marker.end() + 2)
    return structure


def check_part(content: bytes) -> None:
    """Check that a JPEG inside another file has data for all of its pixels.

    Raises:
        ValueError: The data end before the last pixel.
    """
    structure = read_structure(content)
    if structure.end < 0:
        raise ValueError("the picture ends too early: a part has no end marker; copy the file again")
    check_completeness(content, structure, _decode(content, 1))


def check_completeness(content: bytes, structure: JpegStructure, image: Image.Image, reduction: int = 1) -> None:
    """Check that a JPEG has data for all of its pixels.

    Args:
        content: Bytes of the file.
        structure: Structure of the file.
        image: The decoded image.
        reduction: How many times smaller its sides are than those of the file: 1, 2, 4 or 8.

    Raises:
        ValueError: The data end before the last pixel, or a progressive file has not all of its scans.
    """
    if structure.end < 0 or structure.frame not in (*BASELINE, PROGRESSIVE):
        return  # Pillow reports a missing end marker; arithmetic coding leaves out the last data if they are zero
    if structure.frame == PROGRESSIVE and any(any(missing) for missing in structure.missing_bits.values()):
        raise ValueError("the picture ends too early: scans of the progressive JPEG are missing; copy the file again")
    data_end = structure.end - NUM_ZEROS
    ends_in_zeros = not content[data_end : structure.end].strip(b"\0")
    if not ends_in_zeros and _has_row_after_last(content, structure):
        return
    if not _is_equal(image, content[: structure.end], reduction):
        raise ValueError("the picture ends too early: the JPEG data stop before the last pixel; copy the file again")
    if ends_in_zeros and _is_equal(image, content[:data_end], reduction):
        raise ValueError("the picture ends too early: zeros replace the end of the JPEG data; copy the file again")


def _has_row_after_last(content: bytes, structure: JpegStructure) -> bool:
    """Return whether a decoder begins one more row of blocks, for which it must have all data before; exact if true."""
    if structure.frame not in BASELINE or structure.num_scans != 1:
        return False
    start = structure.height_position
    height = int.from_bytes(content[start : start + 2], "big")
    num_rows = -(-height // (8 * structure.block_rows)) * structure.block_rows  # in rows of eight pixels
    taller = 8 * (num_rows + structure.block_rows)
    if taller > MAX_HEIGHT:
        return False
    extended = content[:start] + taller.to_bytes(2, "big") + content[start + 2 : structure.end] + b"\xff\xd9"
    image = _decode(extended, DRAFT_SCALE, "L")
    first = image.crop((0, num_rows, 1, num_rows + 1))
    return first.getextrema() != (GRAY, GRAY)


def _is_equal(decoded: Image.Image, data: bytes, scale: int) -> bool:
    """Return whether a JPEG without its end marker has data for all pixels of the decoded image."""
    extended = _decode(data.rstrip(b"\xff") + FILLER + b"\xff\xd9", scale)  # 0xFF and a byte would be a marker
    return ImageChops.difference(decoded, extended).getbbox(alpha_only=False) is None


def _decode(content: bytes, scale: int, mode: str | None = None) -> Image.Image:
    image = Image.open(io.BytesIO(content), formats=("JPEG",))
    if scale > 1:
        image.draft(mode or image.mode, (image.width // scale, image.height // scale))
    image.load()
    return image
