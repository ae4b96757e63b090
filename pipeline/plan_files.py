"""Plan files of `pipeline`."""

import difflib
from importlib import resources
from pathlib import Path

MAX_PLAN_BYTES = 1 << 20


def shipped_plans() -> dict[str, Path]:
    """Name -> file of the plans that come with the project."""
    folder = Path(str(resources.files("pipeline") / "plans" / "toml"))
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def _find(name: str) -> tuple[Path, str]:
    path = Path(name) if name.endswith(".toml") else shipped_plans().get(name)
    if path is None or not path.is_file():
        near = difflib.get_close_matches(name, shipped_plans(), 1)
        hint = f"did you mean {near[0]!r}?" if near else f"shipped are {', '.join(shipped_plans())}"
        raise FileNotFoundError(f"No plan {name!r}: give a .toml file, or a name; {hint}")
    if path.stat().st_size > MAX_PLAN_BYTES:
        raise ValueError(f"{path} has {path.stat().st_size:,} bytes; a plan has at most {MAX_PLAN_BYTES:,}.")
    return path, path.read_text(encoding="utf-8")
