"""Print tables of costs (`make bench`). Compare ratios, not single figures; no test depends on them.

python -m tests.bench              every table
python -m tests.bench stores       the named tables
python -m tests.bench losses-demo --keep FOLDER    work in a folder and keep it: finished trainings are not repeated
python -m tests.bench flickr8k --data FOLDER --keep FOLDER    systems on photographs; see the options below
python -m tests.bench --photographs FOLDER    the extraction stage over a folder with dataset_flickr8k.json and images
"""

import argparse
import tempfile
from contextlib import nullcontext
from pathlib import Path

import torch

from tests.bench import flows, starts
from tests.bench.data import folders, loader, shards, stores
from tests.bench.extractors import backbones, bottom_up, captions, detectors
from tests.bench.index import large as index_large
from tests.bench.index import rivals as index
from tests.bench.index import search
from tests.bench.index import update as index_update
from tests.bench.pipeline import faithful, neighbors, page, service
from tests.bench.tern import baselines, flickr8k, losses, metrics
from tests.bench.tern import step as tern

TABLES = {
    "starts": starts.starts,
    "stores": stores.stores,
    "folders": folders.folders,
    "shards": shards.shards,
    "bottom-up": bottom_up.bottom_up,
    "detectors": lambda _: detectors.detectors(),
    "detectron2": lambda _: detectors.detectron2(),
    "backbones": lambda _: backbones.backbones(),
    "captions": lambda _: captions.tokens(),
    "search": search.search,
    "index": index.index,
    "index-large": index_large.large,
    "index-update": index_update.index_update,
    "service": service.service,
    "page": page.page,
    "neighbors": neighbors.neighbors,
    "faithful": faithful.faithful,
    "metrics": lambda _: metrics.metrics(),
    "losses": lambda _: losses.losses(),
    "losses-demo": losses.losses_demo,
    "tern": lambda _: tern.step(),
    "loader": loader.loader,
    "demo": baselines.demo,
    "flows": flows.flows,
}


def main() -> None:
    """Print the requested tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "tables", nargs="*", choices=[[], *TABLES, "flickr8k"], default=[], help=", ".join([*TABLES, "flickr8k"])
    )
    torch.set_num_threads(1)  # as in a worker process; a second thread that waits would be counted too
    parser.add_argument("--photographs", type=Path, help="folder of photographs; time only their extraction")
    parser.add_argument(
        "--keep", "--work", type=Path, help="folder for intermediate files; default: a temporary folder"
    )
    flickr8k.add_options(parser)
    arguments = parser.parse_args()
    if arguments.photographs:
        with tempfile.TemporaryDirectory(prefix="bench-") as folder:
            detectors.photographs(Path(folder), arguments.photographs)
        return
    tables = TABLES | {"flickr8k": lambda folder: flickr8k.flickr8k(folder, arguments)}
    for name in arguments.tables or tables:
        with nullcontext(arguments.keep) if arguments.keep else tempfile.TemporaryDirectory(prefix="bench-") as folder:
            (Path(folder) / name).mkdir(parents=True, exist_ok=True)
            tables[name](Path(folder) / name)


if __name__ == "__main__":
    main()
