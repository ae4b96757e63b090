"""The code base as the tests of its structure see it: files, imports and sizes, read from the syntax trees."""

import ast
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("data", "extractors", "tern", "index", "pipeline", "flows")


@dataclass(frozen=True)
class Import:
    """One imported name: `from module import name`, or `import module` with an empty name."""

    file: str
    line: int
    module: str
    name: str
    is_nested: bool  # inside a function
    text: str  # the source line

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.text.strip()}"


@cache
def tracked_files(*patterns: str) -> tuple[str, ...]:
    """List the files of the repository that match, as paths relative to its root; new files count as well."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    return tuple(name for name in listed if (ROOT / name).is_file())


def product_files() -> tuple[str, ...]:
    """List the Python files of the six packages."""
    return tracked_files(*(f"{package}/*.py" for package in PACKAGES))


@cache
def parse(file: str) -> ast.Module:
    """Parse a file, named relative to the root."""
    return ast.parse((ROOT / file).read_text(encoding="utf-8"))


def module_name(file: str) -> str:
    """Convert `index/versions/tags.py` to `index.versions.tags`, and an `__init__.py` to its folder."""
    return file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


@cache
def imports_of(file: str) -> tuple[Import, ...]:
    """List every import of a file, those inside functions and under `TYPE_CHECKING` too."""
    lines = (ROOT / file).read_text(encoding="utf-8").splitlines()

    def visit(node: ast.AST, is_nested: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{file}:{child.lineno}: write the import absolutely"
                text = " ".join(lines[child.lineno - 1 : child.end_lineno])
                for alias in child.names:
                    assert alias.name != "*", f"{file}:{child.lineno}: name what is imported instead of *"
                    yield Import(file, child.lineno, child.module or "", alias.name, is_nested, text)
            elif isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(file, child.lineno, alias.name, "", is_nested, lines[child.lineno - 1])
            else:
                inside = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from visit(child, is_nested or inside)

    return tuple(visit(parse(file), is_nested=False))


@cache
def file_of(module: str, name: str = "") -> str | None:
    """Find the file that defines a name of a module of the project; follow what an `__init__.py` re-exports."""
    by_module = {module_name(file): file for file in product_files()}
    if f"{module}.{name}" in by_module:
        return by_module[f"{module}.{name}"]
    file = by_module.get(module)
    if file is not None and file.endswith("__init__.py"):
        for node in parse(file).body:
            if isinstance(node, ast.ImportFrom) and name in {alias.asname or alias.name for alias in node.names}:
                original = next(alias.name for alias in node.names if (alias.asname or alias.name) == name)
                return file_of(node.module or "", original)
    return file
