"""List the members of a tar file by its headers: POSIX ustar and pax, and GNU. Nothing is unpacked.

Python's `tarfile` is the reference. It stops at a damaged header without an error, and takes longer.
"""

import os
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from data.images.folder import COMPANION_SUFFIXES
from data.images.shards.members import MAX_MEMBERS, ShardList, choose_images, find_member_problem, get_image_problem

BLOCK = tarfile.BLOCKSIZE
END = bytes(BLOCK)
MAX_HEADER_BYTES = 1 << 20  # of a pax header or a long name
MAX_TEXT_BYTES = 1 << 20  # of a text or JSON file: a longer one is not about one image
MAX_SHARD_TEXT_BYTES = 256 << 20  # of all text and JSON files of a shard
EXTENSIONS = {
    *(tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE),
    *(tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK),
}  # blocks about the next member, or about all
COMPRESSED = {b"\x1f\x8b": "gzip -d", b"BZh": "bzip2 -d", b"\xfd7zXZ": "xz -d", b"\x28\xb5\x2f\xfd": "zstd -d"}
PAX_RECORD = re.compile(rb"(\d{1,20}) ([^=\n]+)=")


@dataclass(frozen=True)
class _Header:
    """One member of a tar file, or a damaged place."""

    name: str
    offset: int
    """First byte of its content."""
    size: int
    is_file: bool = True
    is_link: bool = False
    problem: str = ""


def list_tar(path: Path) -> ShardList:
    """List the images, texts and problems of a tar file.

    Raises:
        ValueError: It is compressed, is no tar file, or has too many members.
        OSError: It cannot be read.
    """
    with open(path, "rb") as file:
        head = file.read(BLOCK)
        if command := next((text for magic, text in COMPRESSED.items() if head.startswith(magic)), ""):
            raise ValueError(f"it is compressed, so that no image can be read alone. Unpack it once: `{command}`")
        shard, candidates = ShardList(), dict[str, _Header]()
        num_text_bytes = 0
        for number, header in enumerate(_iter_headers(file)):
            if number == 0 and header.problem:
                raise ValueError("it is not a tar file: its first block is no header of one")
            if number == MAX_MEMBERS:
                raise ValueError(f"it has more than {MAX_MEMBERS:,} members. Split it")
            if text := _add_member(header, shard, candidates):
                num_text_bytes += header.size
                if num_text_bytes > MAX_SHARD_TEXT_BYTES:
                    raise ValueError(f"its text and JSON files have more than {MAX_SHARD_TEXT_BYTES:,} bytes. Split it")
                shard.texts.append((text, _decode(os.pread(file.fileno(), header.size, header.offset))))
    chosen = set(choose_images(candidates).values())
    for name, header in candidates.items():
        if name in chosen:
            shard.images[name] = (header.offset, header.size)
        elif "." in name.rpartition("/")[2].partition(".")[2]:
            shard.ignore(name)
        else:
            shard.add_problem(name, "another image of the shard has this key; the first one is used")
    return shard


def _add_member(header: _Header, shard: ShardList, candidates: dict[str, _Header]) -> str:
    """Add a member to the shard, or to the candidates for its images; return the name of a text or JSON file."""
    name = header.name.removeprefix("./")
    base = name.rpartition("/")[2]
    if header.problem:
        shard.add_problem(name, header.problem)
        return ""
    is_text = name.lower().endswith(COMPANION_SUFFIXES)
    image_problem = get_image_problem(name)
    if not header.is_file and not (header.is_link and image_problem is not None):
        return ""
    if base.startswith(".") or (image_problem is None and not is_text):
        shard.ignore(name)
        return ""
    if reason := find_member_problem(name) or image_problem:
        shard.add_problem(name, reason)
    elif header.is_link:
        shard.add_problem(name, "a link to another file, which is not followed; pack the file itself")
    elif is_text:
        if header.size <= MAX_TEXT_BYTES:
            return name
        shard.add_problem(name, f"the file has more than {MAX_TEXT_BYTES:,} bytes, too many for one image")
    elif name in candidates:
        shard.add_problem(name, "the shard has this name twice; the first one is used")
    else:
        candidates[name] = header
    return ""


@dataclass(frozen=True)
class _Block:
    """Fields of a header block."""

    type: bytes
    name: str
    size: int

    @property
    def is_file(self) -> bool:
        """Whether it is a regular file."""
        return self.type in tarfile.REGULAR_TYPES and not (self.type == tarfile.AREGTYPE and self.name.endswith("/"))


def _parse_block(block: bytes) -> _Block:
    """Parse a header block, with the numbers of `tarfile`, whose own parser takes three times as long.

    Raises:
        tarfile.HeaderError: It is cut, or its checksum is wrong.
    """
    if len(block) < BLOCK or sum(block) - sum(block[148:156]) + 8 * 32 != _parse_number(block[148:156]):
        info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")  # it knows sums of signed bytes, too
        return _Block(info.type, info.name, info.size)
    kind, name, prefix = block[156:157], _decode_field(block[:100]), _decode_field(block[345:500])
    name = f"{prefix}/{name}" if prefix and kind not in tarfile.GNU_TYPES else name
    return _Block(kind, name, _parse_number(block[124:136]))


def _parse_number(field: bytes) -> int:
    """Parse a number of a header: octal digits, or bytes of base 256 for large files.

    Raises:
        tarfile.HeaderError: It is neither.
    """
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError as error:
        raise tarfile.HeaderError(f"{field!r} is not a number") from error


def _iter_headers(file: BinaryIO) -> Iterator[_Header]:
    """Yield the members of a tar file in order; after a damaged header, the search goes on at the next good one."""
    number, size = file.fileno(), os.fstat(file.fileno()).st_size
    offset, extra = 0, dict[str, str]()
    while offset < size:
        block = os.pread(number, BLOCK, offset)
        if block == END:
            return
        try:
            info = _parse_block(block)
        except tarfile.HeaderError:
            following = _find_next_header(number, offset + BLOCK, size)
            problem = f"a damaged header; {following - offset:,} bytes are left out"
            yield _Header(f"byte {offset:,}", 0, 0, problem=problem)
            offset, extra = following, {}
            continue
        start = offset + BLOCK
        if info.type in EXTENSIONS:
            extra |= _read_extension(number, start, info)
            offset = start + _round_up(info.size)
            continue
        num_bytes = int(extra["size"]) if extra.get("size", "").isdigit() else info.size
        has_content = info.type in tarfile.REGULAR_TYPES or info.type not in tarfile.SUPPORTED_TYPES
        yield _make_header(info, extra, start, num_bytes if has_content else 0, size)
        offset, extra = start + (_round_up(num_bytes) if has_content else 0), {}
    yield _Header("end", 0, 0, problem="the shard ends without the mark of its end: it may be cut")


def _read_extension(file: int, start: int, info: _Block) -> dict[str, str]:
    """Read what a block says about the member after it: its long name, or records of pax."""
    if info.type in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
        return {}
    content = os.pread(file, min(info.size, MAX_HEADER_BYTES), start)
    return {"path": _decode_field(content)} if info.type == tarfile.GNUTYPE_LONGNAME else _parse_pax(content)


def _make_header(info: _Block, extra: dict[str, str], start: int, num_bytes: int, size: int) -> _Header:
    name = extra.get("path", info.name)
    if start + num_bytes > size:
        problem = f"it is cut: {max(0, size - start):,} of its {num_bytes:,} bytes are there"
        return _Header(name, start, num_bytes, problem=problem)
    if info.type == tarfile.GNUTYPE_SPARSE or any(key.startswith("GNU.sparse.") for key in extra):
        return _Header(name, start, num_bytes, problem="it is stored as a sparse file; pack it without --sparse")
    return _Header(name, start, num_bytes, info.is_file, info.type in (tarfile.SYMTYPE, tarfile.LNKTYPE))


def _find_next_header(file: int, offset: int, size: int) -> int:
    """Find the offset of the next block with the magic of a tar header and a valid checksum; the size if none."""
    while offset < size:
        block = os.pread(file, BLOCK, offset)
        if block[257:262] == b"ustar":
            try:
                _parse_block(block)
                return offset
            except tarfile.HeaderError:
                pass
        offset += BLOCK
    return size


def _parse_pax(content: bytes) -> dict[str, str]:
    """Parse the records `length key=value` of a pax header; what cannot be parsed is left out."""
    records, position = dict[str, str](), 0
    while match := PAX_RECORD.match(content, position):
        end = match.start() + int(match[1])
        if not match.end() < end <= len(content):
            break
        records[_decode(match[2])] = _decode(content[match.end() : end - 1])
        position = end
    return records


def _decode(content: bytes) -> str:
    return content.decode("utf-8", "surrogateescape")


def _decode_field(content: bytes) -> str:
    """Decode a text that ends at the first null byte."""
    return _decode(content.partition(b"\0")[0])


def _round_up(size: int) -> int:
    return -(-size // BLOCK) * BLOCK
