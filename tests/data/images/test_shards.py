"""Tar shards and Parquet files are read as `tarfile`, `webdataset` and `datasets` read them; and bad ones."""

import gzip
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data.config import DatasetConfig
from data.datasets import Dataset, load_dataset
from data.images import FileHashCache, load_image, read_image
from data.images.shards import list_cache, parquet_reader
from data.images.shards.members import ShardList
from data.images.shards.tar_list import list_tar
from data.io.digests import sha256_bytes
from tests.helpers.collection_forms import add_member, draw_jpeg, make_records, write_parquet_images, write_tar_shards

JPEG, OTHER = draw_jpeg(1), draw_jpeg(2)
Members = list[tuple[str, bytes] | tuple[str, bytes, dict[str, object]]]


def write_tar(path: Path, members: Members, form: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=form) as archive:
        for name, content, *fields in members:
            add_member(archive, name, content, **(fields[0] if fields else {}))
    return path


def load(root: Path, **settings: object) -> Dataset:
    return load_dataset(DatasetConfig.model_validate({"name": "mine", "images": root, **settings}))


@pytest.fixture
def cached_lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Keep lists in a folder of the test, and count a shard as settled at once."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(list_cache, "is_settled", lambda stamp: True)
    return tmp_path / "cache" / "tern" / "shards"


NAMES = [
    *("a.jpg", "sub/b.jpeg", "./c.png", "d" * 150 + ".jpg", "é/ü.jpg", "x/" * 60 + "e.webp", "two.words.jpg"),
    *("t.txt", "j.json", "k.cls"),
]


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_list_of_a_tar_file_is_that_of_tarfile(form: int, tmp_path: Path) -> None:
    members: Members = [
        (name, name.encode() * 40, {"mtime": 1.5 if form == tarfile.PAX_FORMAT else 1}) for name in NAMES
    ]
    with tarfile.open(write_tar(tmp_path / "s.tar", members, form)) as archive:
        expected = {info.name: (info.offset_data, info.size) for info in archive}
    shard = list_tar(tmp_path / "s.tar")
    assert shard.problems == []
    assert (shard.num_ignored, shard.first_ignored) == (1, ["k.cls"])
    images = {name: place for name, place in expected.items() if not name.endswith((".txt", ".json", ".cls"))}
    assert shard.images == {name.removeprefix("./"): place for name, place in images.items()}
    for name in shard.images:
        stored = next(other for other in NAMES if other.removeprefix("./") == name)
        assert read_image(tmp_path / "s.tar" / name) == stored.encode() * 40
    assert dict(shard.texts) == {"t.txt": "t.txt" * 40, "j.json": "j.json" * 40}


def test_shards_are_read_as_webdataset_reads_them(tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset", reason="webdataset is a development dependency")
    records = make_records(12)
    write_tar_shards(tmp_path, records)
    dataset = load(tmp_path)
    captions = dataset.captions_by_image_id
    for shard in sorted(tmp_path.glob("*.tar")):
        samples = list(webdataset.WebDataset(str(shard), shardshuffle=False, empty_check=False))
        assert len(samples) == 4
        for sample in samples:
            image = dataset.images_by_id[f"{shard.stem}/{sample['__key__']}"]
            fields = json.loads(sample["json"])
            assert read_image(image.path) == sample["jpg"]
            assert [caption.text for caption in captions[image.id]] == [sample["txt"].decode()]
            assert dict(image.columns) == {n: v for n, v in fields.items() if n not in ("caption", "key", "split")}


def test_parquet_images_are_read_as_datasets_reads_them(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a development dependency")
    write_parquet_images(tmp_path / "images", make_records(20))
    dataset = load(tmp_path / "images")
    files = sorted(str(path) for path in (tmp_path / "images").glob("*.parquet"))
    rows = datasets.Dataset.from_parquet(files, cache_dir=str(tmp_path / "cache"))
    assert len(rows) == len(dataset.images) == 20
    for row, image in zip(rows, dataset.images, strict=True):
        assert read_image(image.path) == row["image"]["bytes"]
        assert image.id.split("/")[1] == row["image"]["path"]
        known = {name: row[name] for name in dataset.columns if row[name] is not None}
        assert dict(image.columns) == known


def test_metadata_of_an_image_folder_is_read_as_datasets_reads_it(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="datasets is a development dependency")
    from tests.helpers.collection_forms import write_metadata_csv

    records = make_records(12)
    write_metadata_csv(tmp_path / "images", records)
    dataset = load(tmp_path / "images")
    rows = datasets.load_dataset(
        "imagefolder",
        data_dir=str(tmp_path / "images"),
        split="train",
        cache_dir=str(tmp_path / "cache"),
        drop_labels=True,
    ).cast_column("image", datasets.Image(decode=False))
    assert len(rows) == 12
    captions = dataset.captions_by_image_id
    for row in rows:
        name = Path(row["image"]["path"]).relative_to(tmp_path / "images").as_posix()
        image = dataset.images_by_id[name]
        assert [caption.text for caption in captions[name]] == [row["caption"]]
        assert (image.columns["likes"], image.columns.get("rating")) == (row["likes"], row["rating"])
        assert image.columns["author"] == row["author"]


SECOND = 512 + -(-len(JPEG) // 512) * 512
"""First byte of the second member of a tar file whose first one is JPEG."""


def write_truncated(path: Path, count: int) -> None:
    content = write_tar(path, [("a.jpg", JPEG), ("b.jpg", OTHER), ("c.jpg", JPEG)]).read_bytes()
    path.write_bytes(content[:count])


def damage_header(path: Path) -> None:
    content = bytearray(write_tar(path, [("a.jpg", JPEG), ("b.jpg", OTHER), ("c.jpg", JPEG)]).read_bytes())
    with tarfile.open(path) as archive:
        offset = archive.getmember("b.jpg").offset
    content[offset + 150] ^= 0xFF  # in the checksum
    path.write_bytes(content)


LINK, FIFO = {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"}, {"type": tarfile.FIFOTYPE}
BAD_MEMBERS: dict[str, tuple[Members, str, str]] = {
    # members besides ok.jpg -> name of the invalid record below the shard, and its reason
    "name twice": ([("a.jpg", JPEG), ("a.jpg", OTHER)], "a.jpg", "has this name twice"),
    "key twice": ([("a.jpg", JPEG), ("a.png", OTHER)], "a.png", "another image of the shard has this key"),
    "parent folder": ([("../a.jpg", JPEG)], "../a.jpg", "leaves the shard"),
    "parent folder inside": ([("x/../../a.jpg", JPEG)], "x/../../a.jpg", "leaves the shard"),
    "absolute path": ([("/etc/a.jpg", JPEG)], "/etc/a.jpg", "leaves the shard"),
    "symbolic link": ([("a.jpg", b"", LINK)], "a.jpg", "a link to another file"),
    "hard link": ([("a.jpg", b"", {"type": tarfile.LNKTYPE, "linkname": "ok.jpg"})], "a.jpg", "a link to another file"),
    "line break in a name": ([("a\nb.jpg", JPEG)], "a\nb.jpg", "control character"),
    "format that cannot be read": ([("a.heic", JPEG)], "a.heic", "cannot be read; convert it"),
    "JSON that is a list": ([("ok.json", b"[1]")], "ok.json", "not a JSON object but list"),
    "JSON that is cut": ([("ok.json", b'{"a": ')], "ok.json", "not JSON"),
    "text that is not UTF-8": ([("ok.txt", b"caf\xe9")], "ok.txt", "not UTF-8"),
    "huge text": ([("ok.txt", b"x" * (1 << 21))], "ok.txt", "more than 1,048,576 bytes"),
}


@pytest.mark.parametrize("case", BAD_MEMBERS)
def test_bad_member_of_a_tar_shard_is_invalid_and_the_others_are_kept(case: str, tmp_path: Path) -> None:
    members, name, reason = BAD_MEMBERS[case]
    write_tar(tmp_path / "s.tar", [("ok.jpg", JPEG), *members, ("z.jpg", OTHER)])
    dataset = load(tmp_path)
    assert {"s/ok", "s/z"} <= dataset.images_by_id.keys()
    reasons = {record.name: record.reason for record in dataset.invalid_records}
    assert reason in reasons.get(f"s.tar/{name}", "no such record"), reasons
    assert read_image(dataset.images_by_id["s/ok"].path) == JPEG


BAD_SHARDS: dict[str, tuple[Callable[[Path], object], set[str], str]] = {
    # writer of s.tar -> images that are kept, and the reason of the invalid record
    "compressed": (lambda path: path.write_bytes(gzip.compress(bytes(10 << 20))), set(), "Unpack it once: `gzip -d`"),
    "not a tar file": (lambda path: path.write_bytes(b"x" * 2000), set(), "not a tar file"),
    "cut in a member": (lambda path: write_truncated(path, SECOND + 600), {"a"}, "it is cut"),
    "cut in a header": (lambda path: write_truncated(path, SECOND + 100), {"a"}, "damaged header"),
    "cut between members": (lambda path: write_truncated(path, SECOND), {"a"}, "may be cut"),
    "damaged header": (damage_header, {"a", "c"}, "damaged header"),
    "device": (lambda path: write_tar(path, [("a.jpg", JPEG), ("b.jpg", b"", FIFO)]), {"a"}, ""),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_bad_tar_shard_costs_only_what_it_hides(case: str, tmp_path: Path) -> None:
    write, kept, reason = BAD_SHARDS[case]
    write(tmp_path / "s.tar")
    write_tar(tmp_path / "good.tar", [("g.jpg", JPEG)])
    dataset = load(tmp_path)
    assert dataset.images_by_id.keys() == {"good/g", *(f"s/{name}" for name in kept)}
    assert (
        (reason in " ".join(record.reason for record in dataset.invalid_records))
        if reason
        else not dataset.invalid_records
    )


def write_rows(path: Path, rows: list[dict[str, object]], **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path, **options)


BAD_ROWS: dict[str, tuple[list[dict[str, object]], str]] = {
    "key twice": ([{"key": "a", "jpg": JPEG}, {"key": "a", "jpg": OTHER}], "has the name 'a' twice"),
    "key that leaves the shard": ([{"key": "../a", "jpg": JPEG}], "leaves the shard"),
    "two columns of bytes": ([{"one": JPEG, "two": OTHER}], "hold bytes. Rename that of the images"),
    "path of an image that is not there": ([{"image": {"bytes": None, "path": "gone.jpg"}}], "no such file"),
    "path that leaves the folder": ([{"image": {"bytes": None, "path": "../x.jpg"}}], "leaves the folder"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_ROWS)
def test_bad_row_of_images_is_invalid_and_the_others_are_kept(case: str, tmp_path: Path) -> None:
    rows, reason = BAD_ROWS[case]
    schema = pa.Table.from_pylist(rows).schema
    if case.startswith("path"):  # a column of nulls has no type of its own
        schema = pa.schema({"image": pa.struct({"bytes": pa.binary(), "path": pa.string()})})
    pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "p.parquet")
    write_tar(tmp_path / "good.tar", [("g.jpg", JPEG)])
    dataset = load(tmp_path)
    assert "good/g" in dataset.images_by_id
    assert reason in " ".join(record.reason for record in dataset.invalid_records)


def test_compressed_tar_file_is_refused_with_a_hint(tmp_path: Path) -> None:
    write_tar(tmp_path / "good.tar", [("g.jpg", JPEG)])
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(50 << 20)))
    (record,) = load(tmp_path).invalid_records
    assert record.name == "bomb.tar.gz"
    assert "unpack it to .tar once" in record.reason


def test_row_may_name_a_file_instead_of_holding_it(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jpg").write_bytes(JPEG)
    rows = [{"image": {"bytes": None, "path": "a.jpg"}, "n": 1}, {"image": {"bytes": OTHER, "path": "b.jpg"}, "n": 2}]
    write_rows(tmp_path / "sub" / "p.parquet", rows)
    dataset = load(tmp_path)
    columns = {image.id: (dict(image.columns), read_image(image.path)) for image in dataset.images}
    assert columns == {"sub/a.jpg": ({"n": 1}, JPEG), "sub/p/b.jpg": ({"n": 2}, OTHER)}


def test_rows_of_large_and_small_row_groups_are_read_in_any_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contents = [draw_jpeg(seed) for seed in range(40)]
    write_rows(tmp_path / "p.parquet", [{"jpg": content} for content in contents], row_group_size=25)
    order = [0, 1, 2, 30, 31, 5, 24, 25, 39, 38, 0]
    for limit in (1 << 30, 1):
        monkeypatch.setattr(parquet_reader, "MAX_GROUP_BYTES", limit)
        reader = parquet_reader.ParquetReader()
        for row in order:
            assert reader.read(tmp_path / "p.parquet", [0], "jpg", row) == contents[row]
        with pytest.raises(ValueError, match="it has 40 rows"):
            reader.read(tmp_path / "p.parquet", [0], "jpg", 40)


def test_unchanged_shard_is_not_read_again(cached_lists: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "images"
    write_tar_shards(root, make_records(12))
    os.utime(root)
    first = load(root)
    assert len(list(cached_lists.iterdir())) == 3
    read: list[str] = []

    def list_and_record(path: Path) -> ShardList:
        read.append(path.name)
        return list_tar(path)

    monkeypatch.setattr(list_cache, "list_tar", list_and_record)
    monkeypatch.setattr("data.images.sources._lists", list_cache.ShardListCache())  # as in another process
    assert load(root) == first
    assert read == []
    write_tar(root / "s1.tar", [("new.jpg", JPEG)])
    assert {image.id for image in load(root).images} == {
        "s1/new", *(image.id for image in first.images if not image.id.startswith("s1/")),
    }  # fmt: skip
    assert read == ["s1.tar"]
    (root / "s2.tar").unlink()
    monkeypatch.setattr("data.images.sources._lists", list_cache.ShardListCache())
    write_tar(root / "s3.tar", [("new.jpg", OTHER)])
    load(root)
    assert len(list(cached_lists.iterdir())) == 3, "the list of the deleted shard is gone"
    for file in cached_lists.iterdir():
        file.write_text(file.read_text()[:-30])  # damaged lists are replaced
    monkeypatch.setattr("data.images.sources._lists", list_cache.ShardListCache())
    assert len(load(root).images) == 6


def test_after_a_change_only_the_images_of_that_shard_are_hashed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, workspace = tmp_path / "images", tmp_path / "workspace"
    records = make_records(12)
    write_tar_shards(root, records)
    workspace.mkdir()
    later = 10**11 + os.stat(root / "s0.tar").st_mtime_ns
    paths = [image.path for image in load(root).images]
    contents = {f"{record.folder}.tar/{record.key}.jpg": record.content for record in records}
    hashes = FileHashCache(workspace, clock=lambda: later).get_hashes(paths)
    assert hashes == [sha256_bytes(contents[path.relative_to(root).as_posix()]) for path in paths]
    write_tar(root / "s1.tar", [("img001.jpg", OTHER)])
    hashed: list[str] = []

    def count(function: Callable[..., object], jobs: Iterator[object]) -> Iterator[object]:
        for job in jobs:
            hashed.extend(job.paths)  # type: ignore[attr-defined]
            yield function(job)

    paths = [image.path for image in load(root).images]
    FileHashCache(workspace, clock=lambda: later).get_hashes(paths, map_fn=count)
    assert hashed == [str(root / "s1.tar" / "img001.jpg")]
    assert sum("/s1.tar/" in line for line in (workspace / "hashes.json").read_text().splitlines()) == 1


def test_member_is_decoded_as_the_file_is(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(JPEG)
    write_tar(tmp_path / "s.tar", [("a.jpg", JPEG), ("broken.jpg", JPEG[:100]), ("empty.jpg", b"")])
    assert (load_image(tmp_path / "s.tar" / "a.jpg") == load_image(tmp_path / "a.jpg")).all()
    for name in ("broken.jpg", "empty.jpg"):
        with pytest.raises(ValueError, match=f"cannot use the image .*{name}"):
            load_image(tmp_path / "s.tar" / name)
    with pytest.raises(FileNotFoundError, match=r"No image gone\.jpg in the shard"):
        load_image(tmp_path / "s.tar" / "gone.jpg")


def test_include_and_exclude_choose_shards_and_members(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", [("x/1.jpg", JPEG), ("y/2.jpg", OTHER)])
    write_tar(tmp_path / "b.tar", [("x/3.jpg", JPEG)])
    ids = lambda **settings: sorted(load(tmp_path, **settings).images_by_id)  # noqa: E731  # shorter than a function
    assert ids() == ["a/x/1", "a/y/2", "b/x/3"]
    assert ids(include=["a.tar"]) == ["a/x/1", "a/y/2"]
    assert ids(include=["*/x/*"]) == ["a/x/1", "b/x/3"]
    assert ids(exclude=["b.tar", "2.jpg"]) == ["a/x/1"]
