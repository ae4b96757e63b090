"""Workspace of `pipeline`."""

from pathlib import Path


def list_models(workspace: Path) -> list[str]:
    """Names of the workspace's trained models."""
    return sorted(path.parent.name for path in workspace.glob("models/*/model.json"))


def find_model(workspace: Path, name: str) -> Path:
    """The folder of one of the workspace's models. Raises FileNotFoundError that names those there are."""
    there = list_models(workspace)
    if name not in there:
        raise FileNotFoundError(f"{workspace} has no trained model {name!r}; there are {', '.join(there) or 'none'}.")
    return workspace / "models" / name
