"""The model card: it comes back as it was written, and a card that does not fit is rejected with its reason."""

import json

import pytest

from tern.card import MODEL_CARD, ModelCard, read_model_card, write_model_card
from tern.config import ModelConfig, TrainConfig

FIELDS = {
    "fingerprint": "0123456789ab", "model": ModelConfig(), "region_dim": 20, "token_dim": 14,
    "region_recipe": "a" * 12, "token_recipe": "b" * 12, "fine_tuned": False, "num_parameters": 7,
}  # fmt: skip
TRAINED = {"config": TrainConfig(preset="small-data"), "epoch": 3, "metrics": {"rsum": 1 / 3, "t2i_r1": 25.0}}
IMPORTED = {"checkpoint": "model_best_rsum.pth.tar", "sha256": "c" * 64}


@pytest.mark.parametrize("extra", [TRAINED, IMPORTED], ids=["trained", "imported"])
def test_model_card_is_read_back_as_written(tmp_path, extra):
    card = ModelCard(**FIELDS, **extra)
    path = write_model_card(tmp_path, card)
    assert path.name == MODEL_CARD
    assert read_model_card(tmp_path) == card
    content = json.loads(path.read_text())
    assert content["schema"] == 8
    assert content.keys() == {"schema", *FIELDS, *extra}, "fields without a value are left out"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 9}, "model card of version 8: schema"),
        ({"regions": "a" * 12}, "regions"),
        ({"region_dim": "many"}, "region_dim"),
        ({"model": {"architecture": "modern"}}, "model.architecture"),
    ],
)
def test_model_card_that_does_not_fit_is_rejected(tmp_path, change, message):
    path = write_model_card(tmp_path, ModelCard(**FIELDS, **TRAINED))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_model_card(tmp_path)


def test_folder_without_model_card_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="training has not finished"):
        read_model_card(tmp_path)
