"""Check that a PNG has data for all of its pixels. Pillow fills missing rows with black, without an error."""

import io
import struct
import zlib

from PIL import Image

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by color type; PNG specification, 11.2.2
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column, first row, and the steps between columns and rows of each pass; PNG specification, 8.2."""
BLOCK_BYTES = 1 << 20


def check_png(content: bytes) -> None:
    """Check the checksums and the number of pixels of a PNG.

    Raises:
        ValueError: The pixel data end before the last pixel.
        SyntaxError: A chunk has a wrong checksum, by Pillow.
    """
    with Image.open(io.BytesIO(content), formats=("PNG",)) as image:
        image.verify()  # Pillow's decoder ends at the last pixel and skips the rest
    width, height, depth, color, _, _, interlace = struct.unpack_from(">IIBBBBB", content, 16)
    bits = depth * CHANNELS.get(color, 0)
    passes = ADAM7 if interlace else ((0, 0, 1, 1),)
    sizes = [(-(-(width - x) // dx), -(-(height - y) // dy)) for x, y, dx, dy in passes]
    expected = sum(rows * (1 + (columns * bits + 7) // 8) for columns, rows in sizes if columns > 0 and rows > 0)
    if (found := _count_pixel_bytes(content, expected)) < expected:
        raise ValueError(f"the picture ends too early: it has {found:,} of {expected:,} bytes of pixels; copy it again")


def _count_pixel_bytes(content: bytes, limit: int) -> int:
    """Count the bytes that the chunks IDAT hold, at most about `limit`."""
    decompressor, num_bytes, position = zlib.decompressobj(), 0, 8
    while position + 8 <= len(content) and num_bytes < limit:
        (length,), kind = struct.unpack_from(">I", content, position), content[position + 4 : position + 8]
        data = content[position + 8 : position + 8 + length] if kind == b"IDAT" else b""
        position += 12 + length
        while data and num_bytes < limit and not decompressor.eof:
            try:
                num_bytes += len(decompressor.decompress(data, BLOCK_BYTES))
            except zlib.error as error:
                raise ValueError(f"broken PNG file: {error}") from error
            data = decompressor.unconsumed_tail
    return num_bytes
