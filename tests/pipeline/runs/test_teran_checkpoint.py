"""A plan with a checkpoint of TERAN: evaluation, index and search rank as the sums of its authors do."""

import shutil

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from data.store.store import Store
from pipeline.cli.app import build_app
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.search.searcher import Searcher
from pipeline.stages.evaluate import read_or_compute_ranks
from pipeline.workspace import Workspace
from tern.card import read_model_card, read_package
from tern.model.authors_file import ROW_WEIGHT
from tests.helpers.small_plan import small_plan
from tests.reference.teran import make_config, make_slow_teran, save_teran, slow_score

pytestmark = pytest.mark.slow

E = 32
ERROR = 0.003  # of a term of a sum: one standard deviation of the error that 8 bits give a cosine


@pytest.fixture(scope="module")
def imported(finished_pipeline, tmp_path_factory):
    """Plan file, settings with a checkpoint in them, and the network of the checkpoint."""
    root = tmp_path_factory.mktemp("teran")
    path = small_plan(root)
    for part in ("dataset", "stores"):
        shutil.copytree(finished_pipeline.plan.workspace / part, root / "run" / part)
    features = finished_pipeline.features
    dims = {"d": Store(features.regions).dim, "t": Store(features.tokens).dim}
    slow = make_slow_teran(scale=0.1, **dims, e=E, layers=1, last=1, ff=24)
    with torch.no_grad():
        slow.img_enc.pos_encoding_image.map[0].weight[:, -5:] *= 20
    save_teran(root / "teran.pth.tar", slow, make_config("symm"))
    return path, (f'checkpoint="{root / "teran.pth.tar"}"', "train={}"), slow


def test_evaluation_and_search_rank_by_the_sums_of_the_authors(imported):
    path, settings, slow = imported
    plan = load_plan(str(path), settings)
    finished = PipelineRunner(plan).run_all()
    assert read_model_card(finished.model).alignment_weight == 1
    assert Store(finished.vectors.image_rows).dim == E
    part = finished.features.dataset.select_split("test")
    expected = score_slowly(slow, finished.features, part)  # (images, captions)
    own_image = np.array([[image.id == caption.image_id for caption in part.captions] for image in part.images])
    tolerance = 20 * ERROR  # a sum has about 20 terms
    ranks = read_or_compute_ranks(
        finished.vectors, finished.features.dataset, Workspace(plan.workspace), "test", plan.evaluate
    )
    found = {"i2t": [ranks.i2t[image.id] for image in part.images], "t2i": [ranks.t2i[one.id] for one in part.captions]}
    for direction, scores, relevant in (("i2t", expected, own_image), ("t2i", expected.T, own_image.T)):
        best = np.where(relevant, scores, -np.inf).max(axis=1, keepdims=True)
        first, last = ((scores > best + shift).sum(axis=1) + 1 for shift in (tolerance, -tolerance))
        assert (first <= found[direction]).all(), direction
        assert (found[direction] <= last).all(), direction
        assert (last - first).mean() < 2, "the scores differ by more than the error"
    caption = part.captions[0]
    by_id = {image.id: number for number, image in enumerate(part.images)}
    hits = [hit for hit in Searcher(plan).search_text(caption.text, 36) if hit.id in by_id]
    assert len(hits) == len(part.images)
    for hit in hits:
        assert abs(hit.score * 2 / ROW_WEIGHT - expected[by_id[hit.id], 0]) < tolerance
        assert bool(hit.words) == (hit.score > 0)


@torch.no_grad()
def score_slowly(slow, features, part) -> np.ndarray:
    regions, tokens = Store(features.regions), Store(features.tokens)
    images = []
    for image in part.images:
        inputs = (torch.tensor(regions.read(name, [image.id])).float() for name in ("features", "boxes", "size"))
        images.append(slow.embed_image(*(value.flatten() if value.numel() == 2 else value for value in inputs)))
    captions = [
        slow.embed_caption(torch.tensor(tokens.read("features", [caption.id])).float()) for caption in part.captions
    ]
    return np.array([[slow_score(image, caption, "symm") for caption in captions] for image in images])


def test_package_of_a_checkpoint_keeps_its_score(imported, tmp_path):
    path, settings, _ = imported
    options = [option for setting in settings[1:] for option in ("--set", setting)]
    command = ["model", "import", str(path.parent / "teran.pth.tar"), "--plan", str(path), *options]
    result = CliRunner().invoke(build_app(), [*command, "--output", str(tmp_path / "out")])
    assert not result.exception, result.output
    config = read_package(tmp_path / "out").config
    assert (config.alignment_weight, config.model.architecture, config.model.alignment_dim) == (1, "teran", E)
