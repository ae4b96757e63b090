"""`tern index export --force`: after a full disk every file of the old export is there."""

import resource

import pytest

from index.exchange.export import export_index
from tests.helpers.index_publish import bytes_of, publish


@pytest.mark.parametrize("limit", [1 << 9, 3 << 10, 6 << 10])
def test_full_disk_leaves_the_old_export_whole(limit, tmp_path):
    """The limit on the size of a file stands for a full disk; which of the files it stops depends on its value."""
    root, output = tmp_path / "index", tmp_path / "out"
    publish(root, 1)
    export_index(root, output)
    before = bytes_of(output)
    publish(root, 2)
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard[1]))
    try:
        with pytest.raises(OSError, match=r"File too large|File size limit"):
            export_index(root, output, force=True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, hard)
    assert bytes_of(output) == before
    export_index(root, output, force=True)
    after = bytes_of(output)
    assert after.keys() == before.keys()
    assert all(after[f"{kind}.npy"] != before[f"{kind}.npy"] for kind in ("image", "caption"))
