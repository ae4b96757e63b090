"""Worker processes of a stage: what is imported before they are forked."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytestmark = pytest.mark.slow

# Run by every new interpreter, not by forked processes: writes one line per search for a module of interest. Python
# searches for a module only where it is not imported yet.
RECORD_IMPORTS = """
import os
import sys
from pathlib import Path


class Recorder:
    def find_spec(self, name, path=None, target=None):
        if name in ("torchvision", "extractors.regions.faster_rcnn"):
            with Path(os.environ["IMPORT_LOG"]).open("a") as log:
                log.write(f"{name} {os.getpid()}\\n")
        return None


sys.meta_path.insert(0, Recorder())
"""

EXTRACT_FOUR_SHARDS = """
import os
import sys
from pathlib import Path

import numpy as np
from PIL import Image as Photo

from data.datasets import Dataset, Image
from extractors.config import TorchvisionConfig
from pipeline.workers import make_process_map
from pipeline.stages.extract import extract_regions
from pipeline.workspace import Workspace

if __name__ == "__main__":
    folder = Path(sys.argv[1])
    images = []
    for number in range(4):
        path = folder / f"{number}.jpg"
        Photo.fromarray(np.full((64, 96, 3), 50 * number, np.uint8)).save(path)
        images.append(Image(path.name, path, "test"))
    dataset = Dataset("four", folder, tuple(images), ())
    config = TorchvisionConfig(model="demo", weights="demo")
    extract_regions(config, dataset, Workspace(folder / "run"), 1, make_process_map(2, "regions"))
    print(os.getpid())
"""


def test_extraction_workers_import_neither_torchvision_nor_their_extractor(tmp_path: Path) -> None:
    """Both are imported by the main process and, once, by the process from which the workers are forked."""
    (tmp_path / "sitecustomize.py").write_text(RECORD_IMPORTS)
    (tmp_path / "extract.py").write_text(EXTRACT_FOUR_SHARDS)
    root = Path(__file__).parents[3]
    log = tmp_path / "imports.txt"
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{root}", "IMPORT_LOG": str(log)}
    command = [sys.executable, str(tmp_path / "extract.py"), str(tmp_path)]
    subprocess.run(command, env=environment, cwd=tmp_path, check=True, capture_output=True)
    assert len(list((tmp_path / "run").rglob("shard-*.h5"))) == 4
    processes = Counter(line.split()[0] for line in set(log.read_text().splitlines()))
    assert processes == {"torchvision": 2, "extractors.regions.faster_rcnn": 2}
