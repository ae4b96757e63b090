"""Cache of file hashes: a file that has not changed since it was hashed is not read again."""

import json
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from data.images.sources import count_image_bytes, find_shard, hash_image, stat_image
from data.io.files import atomic_write
from data.io.json_text import parse_json
from data.text import iter_lines

VERSION = 2
FILE = "hashes.json"
HEAD, TAIL = f'{{"version":{VERSION},"files":{{\n', "}}\n"  # lines between them hold one entry each
ENTRY = re.compile(r"(\d+ ){4}[0-9a-f]{64}")
MIN_AGE_NS = 2 * 10**9  # nanoseconds; twice the coarsest clock of a file system (even seconds of FAT)
MAX_JOB_FILES, MAX_JOB_BYTES = 1_000, 256 << 20  # of the files that one job hashes
JOBS_PER_SAVE = 64  # a killed run hashes at most so many jobs again: 64,000 files or 17 GB
UNREADABLE = "unreadable: "


@dataclass(frozen=True)
class HashJob:
    """Files to hash; picklable, so that any `map_fn` can send it to another process."""

    paths: tuple[str, ...]
    is_io_bound: ClassVar[bool] = True
    """Threads are as fast as processes, which would have to start: reading and hashing do not hold Python's lock."""

    @property
    def num_items(self) -> int:
        """Return the number of files, for progress bars."""
        return len(self.paths)


class FileHashCache:
    """SHA-256 of images by path, stored in `workspace/hashes.json` with size, times and inode of each file.

    The entry of a member of a shard has those of the shard.

    An entry is valid while size, times and inode are equal. As in git's index, a file that changed shortly before it
    was hashed is not cached: a change within the same tick of the clock would be invisible. An entry is one text, and
    is read line by line, because there may be millions of them.

    Args:
        workspace: Folder of the cache file.
        clock: Function that returns the present time in nanoseconds.
    """

    def __init__(self, workspace: Path, clock: Callable[[], int] = time.time_ns):
        self.path, self._clock = Path(workspace) / FILE, clock
        self._entries = _load_cache(self.path)

    def get_hashes(
        self,
        paths: Iterable[Path],
        save: bool = True,
        map_fn: Callable[[Callable[[HashJob], Any], Iterable[HashJob]], Iterable[Any]] = map,
    ) -> list[str]:
        """Return the hash of each file, or `unreadable: REASON`.

        Args:
            paths: The files.
            save: Whether to write the cache file where files were hashed; entries of files that no longer exist are
                removed then. False writes nothing.
            map_fn: Function with the signature of the built-in `map`, applied to the jobs that hash files.
        """
        names = [os.path.abspath(path) for path in paths]
        hashes, changed = self._find_unchanged(names)
        for jobs in _split_into_rounds(changed):
            start, has_changed = self._clock(), False
            for job, results in zip(jobs, map_fn(hash_job_files, jobs), strict=True):
                for name, (stat, value) in zip(job.paths, results, strict=True):
                    hashes[name] = value
                    has_changed |= self._entries.pop(name, None) is not None
                    if stat is not None and max(stat.st_mtime_ns, stat.st_ctime_ns) + MIN_AGE_NS < start:
                        self._entries[name] = f"{_format_stat(stat)} {value}"
                        has_changed = True
            if save and has_changed:
                self._write()
        return [hashes[name] for name in names]

    def _find_unchanged(self, names: Sequence[str]) -> tuple[dict[str, str], dict[str, int]]:
        """Return the hashes of unchanged and missing files, and the sizes of the others, in bytes."""
        hashes: dict[str, str] = {}
        changed: dict[str, int] = {}
        for name in names:
            try:
                stat = stat_image(name)
                known, _, value = self._entries.get(name, "").rpartition(" ")
                if known == _format_stat(stat):
                    hashes[name] = value
                else:
                    changed[name] = count_image_bytes(name)
            except OSError as error:  # extraction lists the item as invalid, with its own reason
                hashes[name] = f"{UNREADABLE}{error.strerror}"
        return hashes, changed

    def _write(self) -> None:
        """Write the entries of files that exist, and of members of shards that have not changed."""
        entries = (entry for entry in self._entries.items() if _is_kept(*entry))
        with atomic_write(self.path) as temporary, open(temporary, "w", encoding="ascii") as file:
            file.write(HEAD)
            for number, (name, entry) in enumerate(entries):
                file.write(f"{',' if number else ''}{json.dumps(name)}:{json.dumps(entry)}\n")
            file.write(TAIL)


def hash_files(paths: Iterable[Path]) -> list[str]:
    """Hash files without a cache; returns the hash of each file, or `unreadable: REASON`."""
    return [value for _, value in hash_job_files(HashJob(tuple(map(str, paths))))]


def is_content_hash(value: str) -> bool:
    """Return whether a value of `get_hashes` is the hash of a file, not the reason why there is none."""
    return not value.startswith(UNREADABLE)


def hash_job_files(job: HashJob) -> list[tuple[os.stat_result | None, str]]:
    """Hash files; returns the stat of each file, or None if it changed meanwhile, and the hash."""
    return [_hash_file(path) for path in job.paths]


def _hash_file(path: str) -> tuple[os.stat_result | None, str]:
    try:
        stat = stat_image(path)
        value = hash_image(Path(path))
        return stat if _format_stat(stat) == _format_stat(stat_image(path)) else None, value
    except (OSError, ValueError) as error:
        return None, f"{UNREADABLE}{getattr(error, 'strerror', None) or error}"


def _is_kept(name: str, entry: str) -> bool:
    """Return whether an entry may be needed again."""
    if os.path.lexists(name):
        return True
    try:
        return find_shard(name) is not None and entry.startswith(_format_stat(stat_image(name)))
    except OSError:
        return False


def _split_into_rounds(sizes: dict[str, int]) -> Iterator[list[HashJob]]:
    """Yield the jobs for files of these sizes, so many at a time as are hashed before the cache is written."""
    jobs: list[HashJob] = []
    names: list[str] = []
    num_bytes = 0
    for name, size in sizes.items():
        if names and (len(names) == MAX_JOB_FILES or num_bytes + size > MAX_JOB_BYTES):
            jobs.append(HashJob(tuple(names)))
            names, num_bytes = [], 0
        if len(jobs) == JOBS_PER_SAVE:
            yield jobs
            jobs = []
        names.append(name)
        num_bytes += size
    if names:
        yield [*jobs, HashJob(tuple(names))]


def _format_stat(stat: os.stat_result) -> str:
    """Return size, mtime, ctime and inode; ctime shows a change after which mtime was restored."""
    return f"{stat.st_size} {stat.st_mtime_ns} {stat.st_ctime_ns} {stat.st_ino}"


def _load_cache(path: Path) -> dict[str, str]:
    """Read the valid entries of a cache file; a missing or damaged file is an empty cache."""
    entries: dict[str, str] = {}
    try:
        with open(path, encoding="ascii") as file:
            lines = iter_lines(file)
            if next(lines, None) != HEAD:
                return {}
            for line in lines:
                if line == TAIL:
                    return entries
                ((name, entry),) = parse_json("{" + (line or "").removeprefix(",") + "}").items()
                if ENTRY.fullmatch(entry):
                    entries[name] = entry
    except (OSError, ValueError, TypeError):
        pass
    return {}
