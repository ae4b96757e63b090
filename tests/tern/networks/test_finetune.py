"""A text encoder that is trained with the model: from stored token ids to a typed query."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from data.store.store import Store
from extractors.config import TextConfig
from extractors.text.extractor import TextEncoder, TextExtractor
from pipeline.plans.load import load_plan
from pipeline.runs.runner import PipelineRunner
from pipeline.search.searcher import Searcher
from tern.config import TrainConfig
from tern.model.embed import embed_captions, embed_new_captions
from tern.model.folder import load_model
from tern.training.train import train
from tern.training.validation import evaluate_split
from tests.helpers.small_plan import small_plan
from tests.helpers.tern_world import CONFIG, Words

pytestmark = pytest.mark.slow


def test_random_text_encoder_learns_the_meaning_of_words(world, tmp_path):
    regions, tokens, dataset = world
    config = TrainConfig(**(CONFIG | {"epochs": 20, "fine_tune": True, "text_lr_scale": 1.0}))
    torch.manual_seed(0)
    folder = train(world, config, tmp_path, text_encoder=Words())
    model = load_model(folder, text=Words())
    metrics = evaluate_split(model, regions, tokens, dataset.select_split("test"))
    assert metrics.t2i.r5 > 80  # chance is 25
    name = dataset.select_split("test").captions[0].id
    stored = next(embed_captions(model, tokens, [name]))[1].vectors[0]
    new = embed_new_captions(model, [tokens.read("token_ids", [name]), np.arange(9)]).vectors[0]
    np.testing.assert_allclose(new, stored, atol=1e-6)


@pytest.mark.parametrize(("setting", "encoder"), [(True, None), (False, Words())])
def test_fine_tune_without_encoder_or_encoder_without_fine_tune_is_rejected(world, tmp_path, setting, encoder):
    with pytest.raises(ValueError, match="both or neither"):
        train(world, TrainConfig(**(CONFIG | {"fine_tune": setting})), tmp_path, text_encoder=encoder)


@pytest.mark.parametrize("layer", [-1, 2, "mean-last-4"])
def test_text_encoder_equals_the_stored_features(layer):
    config = TextConfig(model="minilm", layer=layer)
    stored = TextExtractor(config)(["two dogs are running", "a cat"])
    ids = torch.zeros(2, len(stored[0].token_ids), dtype=torch.long)
    mask = torch.zeros_like(ids, dtype=torch.bool)
    for row, item in enumerate(stored):
        ids[row, : len(item.token_ids)] = torch.from_numpy(item.token_ids)
        mask[row, : len(item.token_ids)] = True
    with torch.no_grad():
        rows = TextEncoder(config).eval()(ids, mask)
    for row, item in enumerate(stored):
        np.testing.assert_allclose(rows[row, : len(item.token_ids)], item.features, atol=4e-3)  # stored as float16


def test_plan_with_fine_tune_runs_up_to_a_query(tmp_path):
    finished = PipelineRunner(
        load_plan(str(small_plan(tmp_path)), ("train.fine_tune=true", "train.epochs=1", "text.layer=2"))
    ).run_all()
    assert set(finished.evaluation.splits) == {"val", "test"}
    assert finished.index.is_file()
    start, trained = TextEncoder(finished.plan.text).state_dict(), load_file(finished.model / "best.safetensors")
    moved = [name for name, value in start.items() if not torch.equal(value, trained[f"text.{name}"])]
    assert len(moved) > len(start) / 2
    caption = finished.features.dataset.select_split("test").captions[0]
    vector = Searcher(finished.plan).embed_text(caption.text)[0]
    stored = Store(finished.vectors.captions).read("features", [caption.id])[0]
    np.testing.assert_allclose(vector, stored, atol=2e-3)
