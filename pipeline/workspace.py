"""Names of the files and folders of a workspace, which holds everything that a plan produces."""

from dataclasses import dataclass
from pathlib import Path


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
