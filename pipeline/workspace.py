"""A workspace holds everything that a plan produces: names of its files and folders, and where it may be."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from data.io import is_within, read_json, write_json
from index.versions import Manifest, read_current

MARKER = ".tern-workspace.json"  # names a folder as a workspace, and the dataset that it belongs to
SCHEMA_VERSION = 1  # of the marker
DEFAULT_PLAN_NOTE = "Without --plan, the plan is `demo`."
IGNORED = re.compile(r"\..*\.tmp(\..*)?|\.DS_Store|\.gitkeep|lost\+found")  # names that a new workspace may have

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
    package = _Child("package")
    """Folder of the model package with which `tern demo` indexes its second dataset."""
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
                f"Choose one of them, or run `tern train --plan PLAN`. {DEFAULT_PLAN_NOTE}"
            )
        return self.models / name

    def check_location(self, images: Path | None) -> None:
        """Check that the root folder is one for outputs alone; nothing is written.

        Args:
            images: Folder of the images of the dataset; None if they are drawn into the workspace.

        Raises:
            ValueError: It is a file, the root of the file system, the home folder or above it, or the folder of images,
                in it or around it; images in the own subfolder `dataset` are allowed. Links are followed.
        """
        root = self.root
        if os.path.lexists(root) and not root.is_dir():
            raise ValueError(f"The workspace {root} is a file or a broken link. Set `workspace` to a folder.")
        if is_within(Path(os.path.expanduser("~")), root):
            raise ValueError(
                f"The workspace {root} is your home folder or holds it. Set `workspace` to a new folder, such as "
                f"{root / 'tern'}."
            )
        if images is None:
            return
        if is_within(root, images):
            relation = "is the folder of images" if is_within(images, root) else "is inside the folder of images"
            raise ValueError(
                f"The workspace {root} {relation} {images}, so that its pictures would become images of the dataset. "
                "Set `workspace` to a folder outside of it."
            )
        if is_within(images, root) and not is_within(images, self.dataset):
            raise ValueError(
                f"The workspace {root} holds the folder of images {images}. Set `workspace` to a folder of its own, "
                f"such as {root / 'tern'}."
            )

    def claim(self, dataset: str) -> None:
        """Make the root folder a workspace, or check that it is that of a dataset; call it before anything is written.

        Args:
            dataset: Name of the dataset.

        Raises:
            ValueError: As in `check_claim`.
        """
        self.check_claim(dataset)
        if not (self.root / MARKER).exists():
            write_json(self.root / MARKER, {"schema": SCHEMA_VERSION, "dataset": dataset})

    def check_claim(self, dataset: str) -> None:
        """Check that `claim` accepts the root folder for a dataset; nothing is written.

        A workspace has a marker. A folder without one becomes a workspace if it does not exist, is empty, or is a
        workspace of an earlier version of this program.

        Args:
            dataset: Name of the dataset.

        Raises:
            ValueError: The folder holds other files, or the workspace belongs to another dataset.
        """
        names = sorted(os.listdir(self.root)) if self.root.is_dir() else []
        if MARKER in names:
            self._check_owner(dataset)
            return
        foreign = [name for name in names if not IGNORED.fullmatch(name)]
        if foreign and not self._is_unmarked_workspace():
            raise ValueError(
                f"{self.root} is not a workspace: it holds other files, such as {foreign[0]!r}. Set `workspace` to a "
                f"new or an empty folder, such as {self.root / 'tern'}."
            )

    def _check_owner(self, dataset: str) -> None:
        path = self.root / MARKER
        content = read_json(path)
        schema = content.get("schema") if isinstance(content, dict) else None
        if schema != SCHEMA_VERSION or not isinstance(content.get("dataset"), str):
            raise ValueError(
                f"{path} has schema {schema!r}, but this version of the program reads schema {SCHEMA_VERSION}. Use the "
                "version that wrote it, or set another workspace."
            )
        if content["dataset"] != dataset:
            raise ValueError(
                f"The workspace {self.root} belongs to the dataset {content['dataset']!r}, and the plan has "
                f"{dataset!r}: extraction would remove the items of the other one. Set another workspace. If only the "
                f"name has changed, correct it in {path}."
            )

    def _is_unmarked_workspace(self) -> bool:
        """Return whether something in the folder was certainly written by this program, before it wrote markers."""
        stores = [*self.stores.glob("*/manifest.json"), *self.vectors.glob("*/manifest.json")]
        manifests = [
            path for path in stores if re.fullmatch(r"(regions|tokens|vectors)-[0-9a-f]{12}", path.parent.name)
        ]
        models = [
            path for path in self.models.glob("*/model.json") if re.fullmatch("tern-[0-9a-f]{12}", path.parent.name)
        ]
        logs = [self.stage_log, self.root / "journal.jsonl"]  # the second one is that of version 0.1
        return (
            any(_has_keys(path, "schema", "recipe") for path in manifests)
            or any(_has_keys(path, "model", "fingerprint") for path in models)
            or _has_keys(self.dataset / "manifest.json", "digest", "config")
            or _has_keys(self.index / "CURRENT", "version", "manifest_sha256")
            or any(_has_stages(path) for path in logs)
        )


def _has_keys(path: Path, *keys: str) -> bool:
    """Return whether a file is a JSON object with some keys."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and all(key in content for key in keys)


def _has_stages(path: Path) -> bool:
    """Return whether a file is a log of stages: a line near its start has the name and the duration of a stage."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read(4096)
    except (OSError, ValueError):
        return False
    return re.search(r'^\{"stage": ?"[^\n]*"seconds": ?\d[^\n]*\}$', text, re.MULTILINE) is not None


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
        "`tern evaluate --plan PLAN`, which makes what is missing, or `tern index --plan PLAN`, which publishes too. "
        f"{DEFAULT_PLAN_NOTE}"
    )


def check_published(workspace: Workspace) -> None:
    """Raise FileNotFoundError if no index is published; the message says what there is and which command makes it."""
    if read_current(workspace.index) is None:
        raise FileNotFoundError(
            f"No index is published in {workspace.index}. {describe_contents(workspace)} Run `tern index --plan "
            f"PLAN`, which makes what is missing and publishes. {DEFAULT_PLAN_NOTE}"
        )


def check_has_captions(manifest: Manifest) -> None:
    """Raise ValueError if a version of the index has no captions, so that a photo has nothing to search."""
    if "caption" not in manifest.collections:
        raise ValueError(
            "The index has no captions, and a photo is compared with captions. Search for images (`--for images`), or "
            "add captions to the dataset and run `tern index update`."
        )
