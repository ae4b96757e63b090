"""Fixtures of the tests of builds and updates: a published index, and a copy of it."""

import shutil
from pathlib import Path

import pytest

from index.building.build import build_index
from tests.helpers.index_updates import CONFIG, World


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("base")
    build_index(CONFIG, World().inputs(), root)
    return root


@pytest.fixture
def root(base, tmp_path) -> Path:
    return shutil.copytree(base, tmp_path / "index")
