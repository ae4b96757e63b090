"""Thumbnails are made once per content, and neither memory nor disk holds more than a bound."""

import io
import os
import shutil
import threading
import time

import pytest
from PIL import Image

from pipeline.service.thumbnails import cache as cache_module
from pipeline.service.thumbnails import disk as disk_module
from pipeline.service.thumbnails.cache import ThumbnailCache
from pipeline.service.thumbnails.disk import DiskCache, open_disk_cache


@pytest.fixture
def made(monkeypatch):
    """Names of the files whose thumbnails were made."""
    names: list[str] = []
    encode = cache_module.encode_thumbnail
    monkeypatch.setattr(
        cache_module, "encode_thumbnail", lambda path, size: names.append(path.name) or encode(path, size)
    )
    return names


@pytest.fixture
def photo(tmp_path):
    Image.effect_noise((800, 600), 90).convert("RGB").save(tmp_path / "a.jpg")
    return tmp_path / "a.jpg"


def test_thumbnail_is_made_once_per_content_and_memory_is_bounded(tmp_path, made):
    for number in range(4):
        Image.new("RGB", (4000, 3000), (40 * number, 0, 0)).save(tmp_path / f"{number}.jpg")
    cache = ThumbnailCache()
    first = cache.get(tmp_path / "0.jpg", 360)
    assert cache.get(tmp_path / "0.jpg", 360) is first
    assert made == ["0.jpg"]
    Image.new("RGB", (4000, 3000), "white").save(tmp_path / "0.jpg")
    os.utime(tmp_path / "0.jpg", ns=(1, 1))
    assert cache.get(tmp_path / "0.jpg", 360).etag != first.etag, "a changed file gets another thumbnail"
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert [cache.get(tmp_path / name, 360) for name in ("broken.jpg", "missing.jpg", "a\0b")] == [None] * 3

    small = ThumbnailCache(max_bytes=int(2.5 * len(first.content)))
    made.clear()
    for number in (1, 2, 1, 3, 1, 2):
        small.get(tmp_path / f"{number}.jpg", 360)
    assert made == ["1.jpg", "2.jpg", "3.jpg", "2.jpg"], "the least recently used one is dropped"


def test_thumbnail_on_disk_is_that_of_the_content_whatever_its_name_is(tmp_path, made, photo):
    def get(path, width=240):
        return ThumbnailCache(disk=DiskCache(tmp_path / "cache" / "thumbnails", 10**7)).get(path, width)

    first = get(photo)
    shutil.move(photo, tmp_path / "b.jpg")
    assert get(tmp_path / "b.jpg") == first, "of another process, for a file that was moved"
    assert made == ["a.jpg"]
    assert get(tmp_path / "b.jpg", 480) != first
    Image.new("RGB", (800, 600), "red").save(tmp_path / "b.jpg")
    assert get(tmp_path / "b.jpg") != first
    assert made == ["a.jpg", "b.jpg", "b.jpg"]
    folder = tmp_path / "cache" / "thumbnails"
    assert folder.stat().st_mode & 0o077 == 0, "the images are private"
    assert len(list(folder.iterdir())) == 3
    for path in folder.iterdir():  # as after a power failure
        path.write_bytes(path.read_bytes()[:100])
    assert Image.open(io.BytesIO(get(tmp_path / "b.jpg").content)).size == (240, 180)
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    assert get(tmp_path / "broken.jpg") is None


def test_disk_holds_at_most_its_bound_and_deletes_only_its_own_files(tmp_path):
    folder, content = tmp_path / "thumbnails", b"\xff\xd8" + bytes(996) + b"\xff\xd9"
    disk, names = DiskCache(folder, 10_000), [f"{number:064x}-240-1.jpg" for number in range(40)]
    folder.mkdir()
    others = ["notes.txt", "photo.jpg", f"{0:064x}.jpg", "sub"]
    for name in others[:-1]:
        (folder / name).write_bytes(bytes(5_000))
    (folder / "sub").mkdir()
    stale = folder / f".{names[0]}.123-456.tmp"
    stale.write_bytes(content)
    os.utime(stale, (1, 1))
    for number, name in enumerate(names):
        disk.write(name, content)
        os.utime(folder / name, (number + 10, number + 10))
        assert disk.read(names[0]) == content, "what is used often stays"
    left = {path.name for path in folder.iterdir()}
    assert set(others) <= left
    assert stale.name not in left
    kept = left - set(others)
    assert names[0] in kept
    assert names[-1] in kept
    assert 8 <= len(kept) <= 10
    assert disk.read(names[1]) is None


def test_cache_that_cannot_be_written_is_no_error(tmp_path, made, photo, caplog):
    (tmp_path / "file").write_text("no folder")
    cache = ThumbnailCache(disk=DiskCache(tmp_path / "file" / "thumbnails", 10**7))
    assert cache.get(photo, 240) is cache.get(photo, 240) is not None
    assert cache.get(photo, 480) is not None
    assert made == ["a.jpg", "a.jpg"]
    assert len(caplog.records) == 1


def test_file_that_changes_meanwhile_is_not_kept_under_the_hash_before(tmp_path, monkeypatch, photo):
    disk = DiskCache(tmp_path / "thumbnails", 10**7)
    encode = cache_module.encode_thumbnail

    def encode_slowly(path, size):
        Image.new("RGB", (80, 60), "red").save(path)
        return encode(path, size)

    monkeypatch.setattr(cache_module, "encode_thumbnail", encode_slowly)
    assert ThumbnailCache(disk=disk).get(photo, 240) is not None
    assert not (tmp_path / "thumbnails").exists()


def test_writers_of_one_file_do_not_mix(tmp_path):
    disk, name = DiskCache(tmp_path, 10**9), f"{1:064x}-240-1.jpg"
    contents = [b"\xff\xd8" + bytes([number]) * 100_000 + b"\xff\xd9" for number in range(4)]
    end = time.monotonic() + 0.3

    def write(content):
        while time.monotonic() < end:
            disk.write(name, content)

    threads = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    while time.monotonic() < end:
        assert disk.read(name) in (None, *contents)
    for thread in threads:
        thread.join()
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize(("value", "expected"), [("0", None), ("3", 3_000_000), ("", 512_000_000)])
def test_bound_is_that_of_the_environment(monkeypatch, value, expected):
    monkeypatch.setenv("TERN_THUMBNAIL_CACHE_MB", value)
    monkeypatch.setattr(disk_module, "DiskCache", lambda folder, max_bytes: (folder.name, max_bytes))
    assert open_disk_cache() == (None if expected is None else ("thumbnails", expected))
