"""Image files written byte by byte, for formats that Pillow cannot write or would read back with the same error."""

import io
import struct
import zlib
from functools import cache

import numpy as np
from PIL import Image


def picture(seed: int, height: int, width: int) -> np.ndarray:
    """Return smooth noise with a few rectangles, (h, w, 3) uint8."""
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
    pixels = np.array(small.resize((width, height), Image.Resampling.BICUBIC))
    for _ in range(5):
        y, x = int(rng.integers(0, height - 40)), int(rng.integers(0, width - 40))
        pixels[y : y + 40, x : x + 30] = rng.integers(0, 256, 3)
    return pixels


RGB = picture(2, 60, 90)
AVIF = {"quality": 95, "subsampling": "4:4:4", "speed": 8}  # nearly equal to the original
FINE = {"quality": 95, "subsampling": 0}  # of a JPEG: equal to the original within about one level
ADAM7 = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]


def saved(form: str, pixels: np.ndarray | Image.Image = RGB, **options) -> bytes:
    buffer = io.BytesIO()
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    image.save(buffer, form, **options)
    return buffer.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(rows: list[bytes], size: tuple[int, int], depth: int, color: int, extra: bytes = b"", lace: int = 0) -> bytes:
    """Return a PNG of rows of packed samples without filters (PNG specification, 11.2)."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", *size, depth, color, 0, 0, lace))
    data = chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows)))
    return b"\x89PNG\r\n\x1a\n" + header + extra + data + chunk(b"IEND", b"")


def tiff(
    samples: np.ndarray | bytes, size: tuple[int, int], bits: int, photometric: int, per: int = 1, **more
) -> bytes:
    """Return a TIFF of one uncompressed strip (TIFF 6.0, section 2); `more`: byte order, sample kind, orientation."""
    order, data = more.get("order", "<"), samples if isinstance(samples, bytes) else samples.tobytes()
    tags = {256: [size[0]], 257: [size[1]], 258: [bits] * per, 259: [1], 262: [photometric], 273: [0], 277: [per]}
    tags |= {278: [size[1]], 279: [len(data)], 339: [more.get("kind", 1)] * per, 274: [more.get("orientation", 1)]}
    tags |= {530: [1, 1]} if photometric == 6 else {}
    start = 8 + 2 + 12 * len(tags) + 4
    start, extra_values, entries = start + 2 * 2 * per, b"", b""
    for tag, values in sorted(tags.items()):
        values = [start] if tag == 273 else values
        form = "I" if tag in (273, 279) else "H"
        packed = struct.pack(f"{order}{len(values)}{form}", *values)
        if len(packed) > 4:
            packed, extra_values = struct.pack(f"{order}I", start - 4 * per + len(extra_values)), extra_values + packed
        entries += struct.pack(f"{order}HHI", tag, 4 if form == "I" else 3, len(values)) + packed.ljust(4, b"\0")
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    return head + entries + bytes(4) + extra_values.ljust(4 * per, b"\0") + data


def laced() -> bytes:
    """Return `RGB` as an Adam7-interlaced PNG: seven small images, one after another."""
    passes = [RGB[y::dy, x::dx] for y, x, dy, dx in ADAM7]
    return png([row.tobytes() for part in passes for row in part], (90, 60), 8, 2, lace=1)


def with_thumbnail_bomb() -> bytes:
    """Return a JPEG whose EXIF data contain a thumbnail that claims 65,535 x 65,535 pixels."""
    bomb = b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9"
    first = b"II*\0" + struct.pack("<IHI", 8, 0, 14)  # no entries, then the directory of the thumbnail
    second = struct.pack("<HHHIIHHIII", 2, 0x201, 4, 1, 44, 0x202, 4, 1, len(bomb), 0)
    return saved("JPEG", **FINE, exif=b"Exif\0\0" + first + second + bomb)


def rewritten(data: bytes, position: int, value: bytes) -> bytes:
    return data[:position] + value + data[position + len(value) :]


def gif_claiming(width: int, height: int) -> bytes:
    screen = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + bytes(6)
    return b"GIF89a" + screen + b"," + struct.pack("<HHHHB", 0, 0, width, height, 0) + b"\x02\x02\x44\x01\x00;"


def webp_claiming(width: int, height: int) -> bytes:
    data = saved("WEBP", lossless=True)
    position = data.index(b"VP8L") + 9
    return rewritten(data, position, struct.pack("<I", width - 1 | height - 1 << 14))


def avif_claiming(width: int, height: int) -> bytes:
    data = saved("AVIF", speed=10)
    return rewritten(data, data.index(b"ispe") + 8, struct.pack(">II", width, height))


@cache
def _compressed_zeros() -> bytes:
    packer = zlib.compressobj(9)
    return b"".join(packer.compress(bytes(1 << 20)) for _ in range(300)) + packer.flush()


def inflated(kind: bytes) -> bytes:
    """Return a PNG with a chunk of 300 MB of zeros, compressed to 0.3 MB."""
    return png([bytes(9)] * 3, (3, 3), 8, 2, chunk(kind, b"x\0\0" + _compressed_zeros()))


def rescanned(times: int) -> bytes:
    """Return a progressive JPEG that repeats its last scan; the decoder processes all pixels once per scan."""
    data = saved("JPEG", progressive=True)
    return data[:-2] + data[data.rindex(b"\xff\xda") : -2] * times + data[-2:]
