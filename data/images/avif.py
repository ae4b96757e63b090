"""Check the size of the frames inside an AVIF file, which its header need not tell: libavif scales what it has decoded.

Boxes: ISO/IEC 14496-12 and 23008-12. Sequence header: AV1 Bitstream Specification, 5.5.
"""

import struct
from collections.abc import Iterator

CONTAINERS = (b"moov", b"trak", b"mdia", b"minf", b"stbl")
SEQUENCE_HEADER, FRAME_HEADER, FRAME = 1, 3, 6  # types of an OBU, the unit of AV1 data
MAX_PARTS, MAX_UNITS = 2_000, 20_000  # parts of a file, and units of all parts; tiles of a large image are 100
MAX_HEADER_BYTES = 128


def check_frames(content: bytes, max_pixels: int) -> None:
    """Check that no frame of a file is larger than an image may be.

    Args:
        content: Bytes of a file that libavif has opened.
        max_pixels: Maximum width times height.

    Raises:
        ValueError: A frame is larger, there are too many of them, or none can be found.
    """
    try:
        parts = _list_parts(content, 0, len(content))
        sizes = [size for part in parts for size in _iter_frame_sizes(part)]
    except (struct.error, IndexError) as error:
        raise ValueError("the boxes of the AVIF file cannot be read") from error
    if not sizes:
        raise ValueError("the AVIF file has no frame")
    for width, height in sizes:
        if width * height > max_pixels:
            raise ValueError(f"{width}x{height} of a frame is more than {max_pixels} pixels; shrink it")


def _iter_boxes(content: bytes, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind, first and last position of the content of each box."""
    while start + 8 <= end:
        size, kind = struct.unpack_from(">I4s", content, start)
        body = start + 8
        if size == 1:
            (size,), body = struct.unpack_from(">Q", content, body), body + 8
        stop = end if size == 0 else start + size
        if stop < body or stop > end:
            return
        yield kind, body, stop
        start = stop


def _list_parts(content: bytes, start: int, end: int) -> list[memoryview]:
    """List the data of the items of a file, and from the beginning of each chunk of its tracks."""
    view, parts = memoryview(content), []
    for kind, body, stop in _iter_boxes(content, start, end):
        if kind in CONTAINERS:
            parts += _list_parts(content, body, stop)
        elif kind in (b"stco", b"co64"):
            (count,) = struct.unpack_from(">I", content, body + 4)
            form = f">{min(count, MAX_PARTS + 1)}{'I' if kind == b'stco' else 'Q'}"
            parts += [view[offset:] for offset in struct.unpack_from(form, content, body + 8)]
        elif kind == b"meta":
            boxes = {name: (first, last) for name, first, last in _iter_boxes(content, body + 4, stop)}
            if b"iloc" in boxes:
                parts += _list_items(content, boxes[b"iloc"][0], boxes.get(b"idat", (0, 0))[0])
        if len(parts) > MAX_PARTS:
            raise ValueError(f"the AVIF file has more than {MAX_PARTS:,} parts")
    return parts


def _list_items(content: bytes, position: int, idat: int) -> list[memoryview]:
    """List the data of the items of a box `iloc`."""
    version = content[position]
    offset_size, length_size = divmod(content[position + 4], 16)
    base_size, index_size = divmod(content[position + 5], 16)
    position, id_size = position + 6, 4 if version == 2 else 2

    def read(size: int) -> int:
        nonlocal position
        position += size
        return int.from_bytes(content[position - size : position], "big")

    items, num_bytes = [], 0
    for _ in range(min(read(id_size), MAX_PARTS + 1)):
        read(id_size)
        method = read(2) & 15 if version else 0
        read(2)
        base, extents = read(base_size), []
        for _ in range(read(2)):
            read(index_size if version else 0)
            extents.append((read(offset_size), read(length_size)))
        starts = [(base + offset + (idat if method == 1 else 0), length) for offset, length in extents]
        data = [memoryview(content)[start : start + length if length else None] for start, length in starts]
        num_bytes += sum(map(len, data)) if len(data) > 1 else 0
        if num_bytes > len(content):
            raise ValueError("the parts of the AVIF file overlap")
        items.append(data[0] if len(data) == 1 else memoryview(b"".join(data)))
    return items


def _iter_frame_sizes(part: memoryview) -> Iterator[tuple[int, int]]:
    """Yield width and height of each sequence header before the first frame of a part."""
    position = 0
    for _ in range(MAX_UNITS):
        if position >= len(part):
            return
        header, position = part[position], position + 1 + (part[position] >> 2 & 1)
        kind, size, shift = header >> 3 & 15, 0, 0
        if header & 0x81 or not header & 2:  # not a unit, or one without a size, which only the last may be
            return
        while True:
            byte, position = part[position], position + 1
            size, shift = size | (byte & 127) << shift, shift + 7
            if byte < 128 or shift > 56:
                break
        if kind == SEQUENCE_HEADER:
            yield _read_frame_size(bytes(part[position : position + min(size, MAX_HEADER_BYTES)]))
        elif kind in (FRAME_HEADER, FRAME):
            return
        position += size


def _read_frame_size(header: bytes) -> tuple[int, int]:
    """Read the maximum width and height of a sequence header."""
    bits = f"{int.from_bytes(header, 'big'):0{8 * len(header)}b}"
    position = 4  # profile and still_picture

    def read(count: int) -> int:
        nonlocal position
        position += count
        return int(bits[position - count : position], 2) if count else 0

    if read(1):  # reduced_still_picture_header
        read(5)
    else:
        delay_bits = 0
        if read(1):  # timing_info
            read(64)
            if read(1):  # a number in which as many bits follow the first one as precede it
                zeros = bits.index("1", position) - position
                read(2 * zeros + 1)
            if read(1):  # decoder_model_info
                delay_bits = read(5) + 1
                read(42)
        has_display_delay = read(1)
        for _ in range(read(5) + 1):  # operating points
            read(12)
            if read(5) > 7:
                read(1)
            if delay_bits and read(1):
                read(2 * delay_bits + 1)
            if has_display_delay and read(1):
                read(4)
    width_bits, height_bits = read(4) + 1, read(4) + 1
    return read(width_bits) + 1, read(height_bits) + 1
