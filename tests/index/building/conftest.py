"""Fixtures of the tests of builds and updates: a published index, and a copy of it."""

import shutil
from pathlib import Path

import pytest

from index.building.build import build_index
from tests.helpers.index_updates import CONFIG, ORIGIN, World


def published(root: Path) -> Path:
    world = World()
    build_index(CONFIG, world.collections(), world.queries, root, ORIGIN)
    return root


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return published(tmp_path_factory.mktemp("base"))


@pytest.fixture
def root(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "index")
