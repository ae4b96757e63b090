"""Small plan of `tests`."""

from pathlib import Path

SMALL = """
workspace = "{workspace}"
images_per_shard = 10
captions_per_shard = 50
workers = {workers}

[demo]
images = 36
splits = {{train = 24, val = 6, test = 6}}

[regions]
model = "demo"
weights = "demo"
min_score = 0.05

[text]
model = "minilm"

[train]
epochs = 3
images_per_batch = 8

[train.model]
width = 32
feedforward_dim = 64
embed_dim = 32

[index]
shards = 2

[report]
queries = ["two dogs are running along the street"]
hits_per_query = 3
num_images = 2
"""


def small_plan(folder: Path, workspace: str = "run", workers: int = 1) -> Path:
    """A plan file for a run of a few seconds."""
    path = folder / "small.toml"
    path.write_text(SMALL.format(workspace=folder / workspace, workers=workers))
    return path
