"""Table of unusual and invalid image files: how to create each, and its expected pixels or reason of rejection."""

import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tests.helpers.image_bytes import (
    AVIF,
    FINE,
    RGB,
    avif_claiming,
    gif_claiming,
    inflated,
    laced,
    png,
    rescanned,
    rewritten,
    saved,
    tiff,
    webp_claiming,
    with_thumbnail_bomb,
)

GRAY = RGB[..., 1]
DEEP = np.random.default_rng(4).integers(0, 65536, (40, 50, 3)).astype(np.uint16)


@dataclass(frozen=True)
class Case:
    """One image file."""

    name: str
    """File name."""
    content: bytes | Callable[[Path], object]
    """Bytes of the file, or a function that creates it at a path."""
    pixels: np.ndarray | None = None
    """Expected pixels; None for an invalid file."""
    within: float = 0
    """Allowed mean difference in levels; 0 is exact."""
    reason: str = ""
    """Expected reason of rejection; empty for a valid file."""

    def make(self, folder: Path) -> None:
        if isinstance(self.content, bytes):
            (folder / self.name).write_bytes(self.content)
        else:
            self.content(folder / self.name)


def on_white(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (color * (alpha / 255.0) + 255 * (1 - alpha / 255.0)).astype(np.float64)


def turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Return the pixels that a viewer shows for an orientation tag (EXIF 2.3, table 4.6.4.A)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.transpose(1, 0, 2)
    return pixels[:: -1 if orientation in (3, 4, 7, 8) else 1, :: -1 if orientation in (2, 3, 6, 7) else 1]


def lab_to_srgb(lab: np.ndarray) -> np.ndarray:
    """Convert L*a*b* under D50 to sRGB: CIE 15, Bradford adaptation to D65, IEC 61966-2-1."""
    fy = (lab[..., 0] + 16) / 116
    f = np.stack([fy + lab[..., 1] / 500, fy, fy - lab[..., 2] / 200], -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.96422, 1.0, 0.82521]
    adapt = [[0.9555766, -0.0230393, 0.0631636], [-0.0282895, 1.0099416, 0.0210077], [0.0122982, -0.020483, 1.3299098]]
    back = [[3.2404542, -1.5371385, -0.4985314], [-0.969266, 1.8760108, 0.041556], [0.0556434, -0.2040259, 1.0572252]]
    linear = (xyz @ np.array(adapt).T @ np.array(back).T).clip(0, 1)
    return 255 * np.where(linear > 0.0031308, 1.055 * linear ** (1 / 2.4) - 0.055, 12.92 * linear)


def _modes() -> list[Case]:
    rgba, la, palette = (
        np.dstack([RGB, GRAY]),
        np.dstack([GRAY, GRAY.T.reshape(60, 90)]),
        Image.fromarray(RGB).quantize(16),
    )
    table = np.array(palette.getpalette()[:48]).reshape(16, 3)[np.asarray(palette)]
    bits, cmyk = GRAY > 128, np.dstack([RGB, GRAY.T.reshape(60, 90)])
    cmyk_rgb = (255.0 - cmyk[..., :3]) * (255.0 - cmyk[..., 3:]) / 255
    lab = np.dstack([RGB[..., 0] // 2 + 70, RGB[..., 1] % 31, RGB[..., 2] % 31]).astype(
        np.uint8
    )  # L* 27..78, a b 0..30
    ycc = np.dstack([RGB[..., 0] // 2 + 64, RGB[..., 1] // 5 + 100, RGB[..., 2] // 5 + 100]).astype(np.float64)
    y, cb, cr = ycc[..., 0], ycc[..., 1] - 128, ycc[..., 2] - 128
    ycc_rgb = np.stack([y + 1.402 * cr, y - 0.344136 * cb - 0.714136 * cr, y + 1.772 * cb], -1)
    deep, flat = DEEP / 257, DEEP[..., 0]
    gray, packed = np.dstack([GRAY] * 3), np.packbits(bits, axis=1)
    twelve = (flat >> 4)[:, ::2], (flat >> 4)[:, 1::2]
    nibbles = np.stack([twelve[0] >> 4, (twelve[0] & 15) << 4 | twelve[1] >> 8, twelve[1] & 255], -1).astype(np.uint8)
    black_white = np.dstack([bits * 255] * 3)
    deep_gray = np.dstack([flat / 257] * 3)
    return [
        Case("baseline.jpg", saved("JPEG", **FINE), RGB, 3),
        Case("progressive.jpg", saved("JPEG", **FINE, progressive=True), RGB, 3),
        Case("gray.jpg", saved("JPEG", GRAY, **FINE), gray, 3),
        Case("cmyk.jpg", saved("JPEG", Image.fromarray(RGB).convert("CMYK"), **FINE), RGB, 3),  # inverted, Adobe's way
        Case("cmyk.tif", tiff(cmyk, (90, 60), 8, 5, 4), cmyk_rgb, 1),
        Case("profile.png", saved("PNG", icc_profile=b"no profile"), RGB),
        Case("trailing.jpg", saved("JPEG", **FINE) + b"\0rubbish" * 99, RGB, 3),
        Case("thumbnail bomb.jpg", with_thumbnail_bomb(), RGB, 3),
        Case("rgba.png", saved("PNG", rgba), on_white(RGB, rgba[..., 3:]), 0.6),
        Case("gray alpha.png", saved("PNG", la), on_white(gray, la[..., 1:]), 0.6),
        Case("palette.png", saved("PNG", palette), table),
        Case("see-through palette.png", saved("PNG", palette, transparency=3),
             np.where(np.asarray(palette)[..., None] == 3, 255, table)),
        Case("one bit.png", saved("PNG", Image.fromarray(bits)), black_white),
        Case("one bit.tif", tiff(packed, (90, 60), 1, 1), black_white),
        Case("interlaced.png", laced(), RGB),
        Case("deep.png", png([row.astype(">u2").tobytes() for row in DEEP], (50, 40), 16, 2), deep, 1),
        Case("deep gray.png", png([row.astype(">u2").tobytes() for row in flat], (50, 40), 16, 0), deep_gray, 1),
        Case("deep.tif", tiff(DEEP, (50, 40), 16, 2, 3), deep, 1),
        Case("deep gray.tif", tiff(flat.astype(">u2"), (50, 40), 16, 1, order=">"), deep_gray, 1),
        Case("white is zero.tif", tiff(65535 - flat, (50, 40), 16, 0), deep_gray, 1),
        Case("twelve bits.tif", tiff(nibbles, (50, 40), 12, 1), np.dstack([(flat >> 4) / 4095 * 255] * 3), 1),
        Case("deep.pgm", b"P5 50 40 65535\n" + flat.astype(">u2").tobytes(), deep_gray, 1),
        Case("lab.tif", tiff(lab, (90, 60), 8, 8, 3), lab_to_srgb(lab * [100 / 255, 1, 1]), 1),
        Case("ycbcr.tif", tiff(ycc.astype(np.uint8), (90, 60), 8, 6, 3), ycc_rgb, 1),
        Case("lossless.webp", saved("WEBP", lossless=True), RGB),
        Case("plain.avif", saved("AVIF", **AVIF), RGB, 3),
        Case("gray.avif", saved("AVIF", GRAY, **AVIF), gray, 3),
        Case("rgba.avif", saved("AVIF", rgba, **AVIF), on_white(RGB, rgba[..., 3:]), 3),
        Case("no avif.jpg", saved("AVIF", **AVIF), RGB, 3),
        Case("moving.avifs", saved("AVIF", **AVIF, save_all=True, append_images=[Image.fromarray(255 - RGB)]), RGB, 3),
        Case("plain.gif", saved("GIF", palette), table),
        Case("see-through.gif", saved("GIF", palette, transparency=3),
             np.where(np.asarray(palette)[..., None] == 3, 255, table)),
        Case("plain.bmp", saved("BMP"), RGB),
        Case("plain.ppm", b"P6\n# a remark\n90 60 255\n" + RGB.tobytes(), RGB),
        *(Case(f"moving.{form.lower()}", saved(form, save_all=True, append_images=[Image.fromarray(255 - RGB)],
                                              **({"lossless": True} if form == "WEBP" else {})), RGB)
          for form in ("WEBP", "PNG")),
        Case("moving.gif", saved("GIF", palette, save_all=True, append_images=[palette.rotate(180)]), table),
        Case("stereo.jpg", saved("MPO", **FINE, save_all=True, append_images=[Image.fromarray(255 - RGB)]), RGB, 3),
        Case("one pixel.png", saved("PNG", RGB[:1, :1]), RGB[:1, :1]),
        Case("20,000 wide.png", saved("PNG", np.tile(RGB, (7, 223, 1))[:400, :20000], compress_level=1),
             np.tile(RGB, (7, 223, 1))[:400, :20000]),
        Case("no jpeg.png", saved("JPEG", **FINE), RGB, 3),
        Case("UPPER.JPG", saved("JPEG", **FINE), RGB, 3),
    ]  # fmt: skip


def _turns() -> list[Case]:
    found = []
    for orientation in range(10):  # 0 and 9 are not defined by the standard and change nothing
        exif = Image.Exif()
        exif[0x0112] = orientation
        found.append(Case(f"turn {orientation}.png", saved("PNG", exif=exif), turned(RGB, orientation)))
        if 1 <= orientation <= 8:  # Pillow writes it as the rotation and mirror of the file
            avif = saved("AVIF", exif=exif, **AVIF)
            found.append(Case(f"turn {orientation}.avif", avif, turned(RGB, orientation), 3))
        found.append(
            Case(
                f"turn {orientation}.tif",
                tiff(RGB, (90, 60), 8, 2, 3, orientation=orientation),
                turned(RGB, orientation),
            )
        )
    return found


def _broken() -> list[Case]:
    jpeg, valid_png, avif = saved("JPEG"), saved("PNG"), saved("AVIF")
    read = "cannot be read as any of JPEG"
    crc = valid_png.index(b"IDAT") - 4 + 8 + struct.unpack(">I", valid_png[valid_png.index(b"IDAT") - 4 :][:4])[0]
    huge = png([], (100_000, 100_000), 8, 2)
    return [
        Case("empty.jpg", b"", reason="the file is empty"),
        Case("cut.jpg", jpeg[:700], reason="truncated"),
        Case("cut.png", valid_png[:900], reason="Truncated"),
        Case("text.jpg", b"not a picture at all\n", reason=read),
        Case("page.jpg", b"<!doctype html><p>404</p>", reason=read),
        Case("paper.jpg", b"%PDF-1.7\n%\xe2\xe3\n", reason=read),
        Case("drawing.jpg", b'<svg xmlns="http://www.w3.org/2000/svg"/>', reason=read),
        Case("layers.jpg", b"8BPS\0\1" + bytes(40), reason=read),
        Case("icon.jpg", saved("ICO"), reason=read),
        Case("cut.avif", avif[:-40], reason="Truncated data"),
        Case("header.avif", avif[:200], reason=read),
        Case("changed.avif", rewritten(avif, avif.index(b"mdat") + 20, b"\xff" * 40), reason="decode"),
        Case("huge.avif", avif_claiming(9_000, 8_000), reason="9000x8000 is more than"),
        Case("strip.avif", avif_claiming(6_000, 60), reason="6000x60 is thinner than 1:50"),
        Case("phone.heic", b"\0\0\0\x18ftypheic\0\0\0\0", reason=read),
        Case("float.tif", tiff(np.zeros((40, 50), "<f4"), (50, 40), 32, 1, kind=3), reason="no defined white level"),
        Case("long.tif", tiff(np.zeros((40, 50), "<u4"), (50, 40), 32, 1), reason="no defined white level"),
        Case("bad header sum.png", rewritten(valid_png, 29, b"\0\1\2\3"), reason=f"broken PNG|{read}"),
        Case("bad sum.png", rewritten(valid_png, crc, b"\0\1\2\3"), reason="broken PNG"),
        Case("bad last pixels.png", rewritten(valid_png, crc - 12, b"\xff"), reason="broken"),
        Case("strip.png", saved("PNG", np.zeros((300, 20_000, 3), np.uint8)), reason="20000x300 is thinner than 1:50"),
        Case("large.png", png([bytes(9)], (8001, 8001), 8, 2), reason="8001x8001 is more than 64000000 pixels"),
        Case("huge.png", huge, reason="100000+ pixels"),
        Case("huge.gif", gif_claiming(65535, 65535), reason="pixels"),
        Case("huge.webp", webp_claiming(16383, 16383), reason="pixels"),
        Case("huge.ppm", b"P6 100000 100000 255\n", reason="pixels"),
        Case("time bomb.jpg", rescanned(10_000), reason=r"its 10,0\d\d scans are more than 500"),
        Case("profile bomb.png", lambda path: path.write_bytes(inflated(b"iCCP")), reason="(?i)too large"),
        Case("text bomb.png", lambda path: path.write_bytes(inflated(b"zTXt")), reason="(?i)too large"),
    ]


def _special_files() -> list[Case]:
    return [
        Case("folder.jpg", Path.mkdir, reason="a folder, not a file"),
        Case("pipe.jpg", os.mkfifo, reason="a pipe, socket or device, not a file"),
        Case("dangling.jpg", lambda path: path.symlink_to("nowhere.jpg"), reason="a link to nothing"),
        Case("loop.jpg", lambda path: path.symlink_to("loop.jpg"), reason="loop"),
        Case("outside.jpg", lambda path: path.symlink_to("../outside.jpg"), reason="leaves the folder"),
        Case("inside.jpg", lambda path: path.symlink_to("baseline.jpg"), RGB, 3),
        Case("bytes \udcff\udcfe.jpg", saved("JPEG"), reason="its name is not UTF-8"),
    ]


NAMES = [
    *("two words", 'it\'s "quoted"', "-rf", "50%20 %s {0}", "back\\slash", "a, b", "a.jpg#0", ".hidden"),
    *("e\u0301 nfd", "\u00e9 nfd", "\u6f22\u5b57 \u0639\u0631\u0628", "\u4e2d" * 83 + "xx"),
    *("\U0001f9a9 \U0001f469\u200d\U0001f467", "<img src=x onerror=alert(1)>", "{{ 7 * 7 }} $HOME `id`"),
]
INVALID_NAMES = ["two\nlines", "a\ttab", "\x1b[2J\x1b[31mred\x07", "\u202egpj.exe"]  # no store or export can hold them


def cases() -> list[Case]:
    """Return all cases."""
    jpeg = saved("JPEG", **FINE)
    named = [Case(f"{name}.jpg", jpeg, RGB, 3) for name in NAMES]
    named += [Case(f"{name}.jpg", jpeg, reason="control character") for name in INVALID_NAMES]
    return [*_modes(), *_turns(), *_broken(), *_special_files(), *named]
