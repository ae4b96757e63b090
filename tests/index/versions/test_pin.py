"""A rollback pins its version until somebody publishes; a crash between the two files never pins another one."""

from pathlib import Path

import pytest

from index.building.build import build_index
from index.building.publish import override_gate
from index.collection import IndexInputs
from index.config import GateConfig
from index.quality.gate import make_gate
from index.versions import folder as folder_module
from index.versions import list_versions, read_current, read_pinned_version, rollback
from index.versions.switch import RejectedError
from tests.helpers.index_publish import CONFIG, publish
from tests.helpers.index_world import make


@pytest.fixture
def root(tmp_path) -> Path:
    """An index with three versions."""
    for seed in (0, 1, 2):
        publish(tmp_path, seed)
    assert read_pinned_version(tmp_path) is None
    return tmp_path


def test_rollback_pins_until_a_version_is_published(root):
    rollback(root, 1)
    assert read_pinned_version(root) == 1
    rollback(root, 2)
    assert read_pinned_version(root) == 2
    publish(root, 3)
    assert read_pinned_version(root) is None
    assert not (root / "PINNED").exists()


@pytest.mark.parametrize(
    ("version", "pin", "pinned"),
    [(1, True, 1), (2, True, 2), (3, True, None), (1, False, None), (3, False, None)],
)
def test_only_a_rollback_behind_a_newer_version_pins(root, version, pin, pinned):
    rollback(root, 1)
    rollback(root, version, pin)
    assert (read_current(root).version, read_pinned_version(root)) == (version, pinned)


def test_publishing_the_content_of_a_pinned_version_removes_the_pin(root):
    rollback(root, 1)
    publish(root, 0)  # equal inputs: version 1 is found
    assert (list_versions(root), read_current(root).version) == ([1, 2, 3], 1)
    assert read_pinned_version(root) is None


def test_rejected_version_does_not_remove_the_pin(root):
    rollback(root, 1)
    inputs = IndexInputs(*make(7, images=60), {"seed": 7})
    gate = make_gate(GateConfig(), {}, dict(make(8, images=60)[0]), CONFIG)  # vectors of another seed
    with pytest.raises(RejectedError):
        build_index(CONFIG, inputs, root, gate=gate)
    assert read_pinned_version(root) == 1
    override_gate(root, 4, "on purpose")
    assert read_pinned_version(root) is None


def test_rejected_version_is_no_newer_version(root):
    gate = make_gate(GateConfig(), {}, dict(make(8, images=60)[0]), CONFIG)
    with pytest.raises(RejectedError):
        build_index(CONFIG, IndexInputs(*make(7, images=60), {"seed": 7}), root, gate=gate)
    rollback(root, 3)
    assert read_pinned_version(root) is None


@pytest.mark.parametrize("failing_write", [0, 1])
def test_interrupted_rollback_leaves_the_published_version_as_it_was(root, monkeypatch, failing_write):
    writes = []

    def write_or_stop(path, content):
        if len(writes) == failing_write:
            raise KeyboardInterrupt
        writes.append(path.name)
        return write_json(path, content)

    write_json = folder_module.write_json
    monkeypatch.setattr(folder_module, "write_json", write_or_stop)
    with pytest.raises(KeyboardInterrupt):
        rollback(root, 1)
    monkeypatch.undo()
    assert (read_current(root).version, read_pinned_version(root)) == (3, None)
    publish(root, 4)
    rollback(root, 1)
    assert read_pinned_version(root) == 1


@pytest.mark.parametrize("content", ["", "{", '{"version": 1}', "[]"])
def test_damaged_pin_is_no_pin(root, content):
    rollback(root, 1)
    (root / "PINNED").write_text(content)
    assert read_pinned_version(root) is None


def test_pin_of_an_empty_index_is_none(tmp_path):
    assert read_pinned_version(tmp_path) is None
