"""Every code block of the README and of docs/ runs, or is in a list of exceptions with its reason.

The blocks run in a folder of their own, with a copy of the code in which the plan `demo` is small. They run in the
order of their page, so that a page may use what its earlier blocks have made. Of equal blocks of several pages, the
last one runs. Blocks of type `text` are output or drawings.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.architecture.code import PACKAGES, ROOT, tracked_files
from tests.helpers import command_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SMALL_DEMO = """
workspace = "runs/demo"
images_per_shard = 40
captions_per_shard = 200
workers = 1
[demo]
images = 48
splits = {train = 36, val = 6, test = 6}
[regions]
model = "demo"
weights = "demo"
min_score = 0.3
full_precision = true
[text]
model = "minilm"
[train]
epochs = 1
images_per_batch = 16
[train.model]
width = 64
feedforward_dim = 64
embed_dim = 64
[report]
queries = ["two dogs are running along the street", "a cat"]
"""

# (regular expression in a block, why blocks that contain it do not run here)
EXCEPTIONS = (
    (r"flickr30k|flickr8k|--plan coco|datasets/", "needs a dataset that its owners distribute"),
    (r"\bmake \w|\bpip install|\.venv/bin/activate|apt-get|pre-commit", "installs software, or runs this test again"),
    (
        r"\btern up\b|\btern run\b|\bprefect\b|createdb|dask (worker|scheduler)|docker|kubectl|ssh ",
        "needs servers that keep running",
    ),
    (r"\btern (serve|mcp)\b|\bcurl\b|127\.0\.0\.1", "starts a server that runs until Ctrl-C, or asks one"),
    (r"torchrun|--processes", "starts several processes; tests/tern/parallel does so"),
    (r"cuda|faiss-gpu|TERN_GPU_SLOTS", "needs a GPU"),
    (
        r"weights (convert|info)|train2014|train36|resnet50|vg36|model_best|\.pth",
        "needs published weight or feature files",
    ),
    (
        r"bert-base-uncased|fasterrcnn_resnet50|photos/captions\.csv|mine\.toml|photos\.toml",
        "needs weights from the network",
    ),
    (
        r"publish \d|~/Pictures|--version \d|rm -r|git |embeddings|regions-\d[a-z]|photo\.jpg|tern-\d",
        "needs versions, models or files of the reader's own",
    ),
    (
        r"evaluate\.(folds|ndcg)=true|evaluate\.folds=2|--groups$|--trec ",
        "tests/tern/evaluation and tests/pipeline/runs/test_quality.py run it on fewer images",
    ),
    (r"^tern demo\s*$", "has made the folder in which the blocks run"),
    (r"import ir_measures|from ranx", "needs ir_measures or ranx; tests/tern/evaluation/test_trec.py uses them"),
)

# What a block is shortened to before it runs.
SHORTENED = {"epochs = 15": "epochs = 1", "train.epochs=2": "train.epochs=1", "scene-00110.jpg": "scene-00010.jpg"}

# page -> the page whose blocks run after it, in the same folder
CONTINUED_BY = {"docs/tutorial/02-your-images.md": "docs/tutorial/03-nightly-updates.md"}


@dataclass(frozen=True)
class Block:
    """One fenced code block of a page."""

    page: str
    line: int
    language: str
    code: str

    @property
    def reason_not_to_run(self) -> str:
        """The reason of the first exception that matches; empty if the block runs."""
        return next((reason for pattern, reason in EXCEPTIONS if re.search(pattern, self.code)), "")

    @property
    def commands(self) -> str:
        """The code without the plan `demo`, which is the default."""
        return self.code.replace(" --plan demo", "")


def read_blocks(page: str) -> list[Block]:
    """Read the code blocks of a page, those that are indented in lists too."""
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = []
    for match in re.finditer(r"^( *)```(\w*)[^\n]*\n(.*?)^\1```$", text, re.MULTILINE | re.DOTALL):
        indent, language, code = match.groups()
        code = re.sub(rf"^{indent}", "", code, flags=re.MULTILINE)
        blocks.append(Block(page, text.count("\n", 0, match.start()) + 1, language, code))
    return blocks


PAGES = [
    page
    for page in tracked_files("README.md", "CONTRIBUTING.md", "docs/*.md")
    if not page.startswith("docs/decisions/") and any(block.language != "text" for block in read_blocks(page))
]
# commands -> the last block that has them
LAST_PLACES = {block.commands: block for page in PAGES for block in read_blocks(page)}


@pytest.fixture(scope="module")
def environment(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Make a copy of the code whose plan `demo` is small, and a server that runs its commands."""
    code = tmp_path_factory.mktemp("code")
    for package in (*PACKAGES, "tests"):  # the server of commands imports its helpers
        if package == "pipeline":
            shutil.copytree(ROOT / package, code / package, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            (code / package).symlink_to(ROOT / package)
    (code / "pipeline/plans/toml/demo.toml").write_text(SMALL_DEMO)
    environment = os.environ | {"PYTHONPATH": str(code), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    server = command_server.start(code, environment)
    yield environment | {"PATH": f"{code / 'bin'}:{os.environ['PATH']}"}
    assert server.stdin is not None
    server.stdin.close()
    server.wait(30)


@pytest.fixture(scope="module")
def finished(environment, tmp_path_factory) -> Path:
    """Run the small demo once; return the folder it ran in."""
    folder = tmp_path_factory.mktemp("reader")
    out = subprocess.run(["tern", "demo"], cwd=folder, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr[-3000:]
    return folder


@pytest.mark.parametrize("page", [page for page in PAGES if page not in CONTINUED_BY.values()])
def test_blocks_of_page_run(page, environment, finished, tmp_path):
    folder = Path(shutil.copytree(finished, tmp_path / "reader", symlinks=True))
    for part in (page, CONTINUED_BY.get(page)):
        for block in read_blocks(part) if part else ():
            run_block(block, environment, folder)


def run_block(block: Block, environment: dict[str, str], folder: Path) -> None:
    """Run a block, unless its language or an exception prevents it, or it is repeated later."""
    where = f"{block.page}:{block.line}"
    assert block.language in ("bash", "python", "toml", "text"), f"{where}: name the language of the block"
    if block.language == "text" or block.reason_not_to_run or block != LAST_PLACES[block.commands]:
        return
    code = block.code
    for long, short in SHORTENED.items():
        code = code.replace(long, short)
    if block.language == "toml":
        named = re.match(r"# (\S+\.toml)$", code.splitlines()[0])
        path = folder / (named[1] if named else "block.toml")
        path.write_text(code if re.search(r"^workspace", code, re.M) else 'workspace = "w"\n[demo]\n')
        table = "" if named or re.search(r"^workspace", code, re.M) else code
        path.write_text(path.read_text() + table)
        command = ["python", "-c", f"from pipeline.plans import load_plan; load_plan({path.name!r})"]
    elif block.language == "python":
        command = ["python", "-c", code]
    else:
        command = ["bash", "-euo", "pipefail", "-c", code]
    out = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert out.returncode == 0, f"{where}\n{code}\n{out.stdout[-1500:]}\n{out.stderr[-3000:]}"


def test_exceptions_are_used():
    blocks = [block for page in PAGES for block in read_blocks(page) if block.language != "text"]
    unused = [pattern for pattern, _ in EXCEPTIONS if not any(re.search(pattern, block.code) for block in blocks)]
    assert not unused, "remove them from EXCEPTIONS"
