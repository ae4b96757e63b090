"""Names of the files and folders of a workspace, which holds everything that a plan produces, and what exists of it."""

from dataclasses import dataclass
from pathlib import Path

from index.versions import read_current

PATTERNS = {
    "region features": "stores/regions-*/manifest.json",
    "token features": "stores/tokens-*/manifest.json",
    "a trained model": "models/*/model.json",
    "vectors": "vectors/*/manifest.json",
}
"""Files that exist where a stage has begun or finished, relative to the root of the workspace."""


class _Child:
    """Path of a file or folder in the root folder of the workspace that it is read from."""

    def __init__(self, name: str):
        self.name = name

    def __get__(self, workspace: "Workspace", _: type) -> Path:
        return workspace.root / self.name


@dataclass(frozen=True)
class Workspace:
    """Paths below the root folder of a workspace. Nothing is created."""

    root: Path

    dataset = _Child("dataset")
    """Folder of the demo dataset."""
    stores = _Child("stores")
    """Folder of the feature stores."""
    models = _Child("models")
    """Folder of the models, one folder per model."""
    vectors = _Child("vectors")
    """Folder of the vector stores."""
    evaluation = _Child("evaluation")
    """Folder of the metrics files."""
    index = _Child("index")
    """Root folder of the index."""
    stage_log = _Child("stages.jsonl")
    """JSON Lines file with one entry per stage that ran."""
    invalid_records = _Child("invalid_records.jsonl")
    """JSON Lines file with the name and the reason of each invalid record."""
    report = _Child("report.html")
    """HTML page with the results."""

    def misses(self, split: str) -> Path:
        """Return the path of the HTML page with the misses of a split."""
        return self.root / f"misses-{split}.html"

    def tuning_plot(self, kind: str) -> Path:
        """Return the path of the PNG file that `tern index tune` writes for `image` or `caption`."""
        return self.root / f"tune-{kind}.png"

    def list_models(self) -> list[str]:
        """List the names of the trained models in alphabetical order."""
        return sorted(path.parent.name for path in self.models.glob("*/model.json"))

    def model(self, name: str) -> Path:
        """Return the folder of a trained model.

        Raises:
            FileNotFoundError: The workspace has no trained model of this name. The message lists the trained models.
        """
        names = self.list_models()
        if name not in names:
            raise FileNotFoundError(
                f"{self.root} has no trained model {name!r}; its trained models: {', '.join(names) or 'none'}. "
                "Choose one of them, or run `tern train`."
            )
        return self.models / name


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
