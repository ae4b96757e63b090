"""`make docs` replaces the site that it made, and no other folder of that name; its navigation is complete."""

import importlib.util
import re
import subprocess
import tomllib
from types import ModuleType, SimpleNamespace

import pytest

from tests.architecture.code import ROOT


@pytest.fixture
def builder(tmp_path, monkeypatch) -> ModuleType:
    spec = importlib.util.spec_from_file_location("build_site", ROOT / "docs" / "build_site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "SITE", tmp_path / "site")
    monkeypatch.setattr(module, "MARKER", tmp_path / "site" / module.MARKER.name)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=1, stdout="failed"))
    return module


@pytest.mark.parametrize("name", ["thesis.tex", "index.html", "deep/a.txt"])
def test_folder_of_somebody_else_is_kept(name, builder):
    path = builder.SITE / name
    path.parent.mkdir(parents=True)
    path.write_text("<title>My page</title>")
    with pytest.raises(SystemExit, match=r"was not made by `make docs`\. Move it away"):
        builder.main()
    assert path.read_text() == "<title>My page</title>"


def test_link_is_kept(builder, tmp_path):
    (tmp_path / "mine").mkdir()
    builder.SITE.symlink_to(tmp_path / "mine")
    with pytest.raises(SystemExit, match="was not made by `make docs`"):
        builder.main()
    assert builder.SITE.is_symlink()


def test_own_site_is_replaced_also_after_a_build_that_failed(builder):
    for _ in range(2):
        with pytest.raises(SystemExit, match="The documentation site was not built"):
            builder.main()
        assert [path.name for path in builder.SITE.iterdir()] == [builder.MARKER.name]
    builder.MARKER.unlink()
    (builder.SITE / "index.html").write_text('<meta name="generator" content="zensical-0.0.73">')
    with pytest.raises(SystemExit, match="The documentation site was not built"):
        builder.main()
    assert not (builder.SITE / "index.html").exists()


def test_navigation_lists_every_page():
    nav = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]
    listed = re.findall(r"[\w./-]+\.md", str(nav))
    pages = [path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs").rglob("*.md")]
    assert sorted(listed) == sorted(pages)
