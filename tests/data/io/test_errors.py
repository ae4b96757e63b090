"""Errors of the machine say what helps, for the file that they are about."""

import errno
import os
from pathlib import Path

import pytest

from data.io.errors import WriteError
from data.io.files import atomic_write, remove_stale_temporaries, temporary_path


@pytest.mark.parametrize(
    ("name", "is_shard"),
    [("ws/stores/regions-1/shard-0123456789ab.h5", True), ("gallery.html", False), ("ws/models/tern-1/a.pt", False)],
)
def test_file_that_is_too_large_is_named_with_settings_only_where_they_help(name, is_shard):
    message = str(WriteError(errno.EFBIG, os.strerror(errno.EFBIG), name))
    assert name in message
    assert "Raise the limit on the file size (`ulimit -f`)" in message
    assert ("images_per_shard" in message) == is_shard


@pytest.mark.parametrize("name", ["x" * 251 + ".npz", "ä" * 125 + ".npz", os.fsdecode(b"\xff" * 251) + ".npz", "a.npz"])
def test_atomic_write_takes_every_name_that_a_file_may_have(name, tmp_path):
    path = tmp_path / name
    with atomic_write(path) as temporary:
        temporary.write_text("new")
        assert temporary.suffix == ".npz"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_temporary_file_of_a_long_name_is_removed_when_its_process_has_ended(tmp_path):
    path = tmp_path / f"{'x' * 251}.npz"
    stale = Path(str(temporary_path(path)).replace(f"-{os.getpid()}.", "-999999999."))
    stale.touch()
    remove_stale_temporaries(tmp_path, [tmp_path / "other.npz"])
    assert stale.exists()
    remove_stale_temporaries(tmp_path, [path])
    assert not stale.exists()


def test_file_on_a_read_only_file_system_is_named_and_not_its_temporary_file(tmp_path, monkeypatch):
    def refuse(path, *_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))

    monkeypatch.setattr(Path, "unlink", refuse)
    with pytest.raises(WriteError) as error, atomic_write(tmp_path / "report.html") as temporary:
        refuse(temporary)
    assert f"{tmp_path / 'report.html'} cannot be written: Read-only file system. Mount" in str(error.value)
