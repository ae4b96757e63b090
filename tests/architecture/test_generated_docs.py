"""The generated pages of docs/reference/ are those of the code, and the other pages name files that exist."""

import re
import runpy
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]
PATH = re.compile(r"`((?:data|extractors|tern|index|pipeline|flows|tests|docs)/[\w/]+\.(?:py|toml|html|md))`")


def test_generated_pages_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs" / "generate.py"))["generate_pages"]()
    for path, text in pages.items():
        written = path.read_text(encoding="utf-8") if path.is_file() else ""
        assert written == text, f"{path.relative_to(ROOT)} is out of date: run `make reference`"


def test_pages_name_files_that_exist() -> None:
    pages = [ROOT / "README.md", *(p for p in sorted((ROOT / "docs").rglob("*.md")) if "decisions" not in p.parts)]
    missing = {
        f"{page.relative_to(ROOT)}: {name}"
        for page in pages
        for name in PATH.findall(page.read_text(encoding="utf-8"))
        if not (ROOT / name).is_file()
    }
    assert not missing
