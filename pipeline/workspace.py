"""Names of the files and folders of a workspace, which holds everything that a plan produces."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Workspace:
    """Paths below the root folder of a workspace. Nothing is created."""

    root: Path

    @property
    def dataset(self) -> Path:
        """Folder of the demo dataset."""
        return self.root / "dataset"

    @property
    def stores(self) -> Path:
        """Folder of the feature stores."""
        return self.root / "stores"

    @property
    def models(self) -> Path:
        """Folder of the models, one folder per model."""
        return self.root / "models"

    @property
    def vectors(self) -> Path:
        """Folder of the vector stores."""
        return self.root / "vectors"

    @property
    def evaluation(self) -> Path:
        """Folder of the metrics files."""
        return self.root / "evaluation"

    @property
    def index(self) -> Path:
        """Root folder of the index."""
        return self.root / "index"

    @property
    def stage_log(self) -> Path:
        """JSON Lines file with one entry per stage that ran."""
        return self.root / "stages.jsonl"

    @property
    def invalid_records(self) -> Path:
        """JSON Lines file with the name and the reason of each invalid record."""
        return self.root / "invalid_records.jsonl"

    @property
    def report(self) -> Path:
        """HTML page with the results."""
        return self.root / "report.html"

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
