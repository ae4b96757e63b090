"""What a workspace has and lacks, in words; used by the commands that read. Needs neither numpy nor torch."""

from index.versions import read_current
from pipeline.workspace import Workspace

PATTERNS = {
    "region features": "stores/regions-*/manifest.json",
    "token features": "stores/tokens-*/manifest.json",
    "a trained model": "models/*/model.json",
    "vectors": "vectors/*/manifest.json",
}
"""Files that exist where a stage has begun or finished, relative to the root of the workspace."""


def describe_contents(workspace: Workspace) -> str:
    """Describe in one sentence which outputs a workspace has and which it lacks."""
    present = [name for name, pattern in PATTERNS.items() if any(workspace.root.glob(pattern))]
    missing = [name for name in PATTERNS if name not in present]
    if not present:
        return f"{workspace.root} has no outputs yet."
    lacks = f", but not {' and '.join(missing)}" if missing else ""
    return f"{workspace.root} has {', '.join(present)}{lacks}."


def check_has_vectors(workspace: Workspace) -> None:
    """Raise FileNotFoundError if there is no vector store."""
    if not any(workspace.root.glob(PATTERNS["vectors"])):
        raise FileNotFoundError(describe_missing_vectors(workspace))


def describe_missing_vectors(workspace: Workspace) -> str:
    """Describe what there is in place of vectors, and which command makes them."""
    return (
        f"There are no vectors of a trained model in {workspace.vectors}. {describe_contents(workspace)} Run "
        "`tern evaluate`, which makes what is missing, or `tern index`, which publishes too."
    )


def check_published(workspace: Workspace) -> None:
    """Raise FileNotFoundError if no index is published; the message says what there is and which command makes it."""
    if read_current(workspace.index) is None:
        raise FileNotFoundError(
            f"No index is published in {workspace.index}. {describe_contents(workspace)} Run `tern index`, which makes "
            "what is missing and publishes."
        )
