"""The model card: it comes back as it was written, and a card that does not fit is rejected with its reason."""

import json

import pytest

from tern.card import MODEL_CARD, ModelCard, read_model_card, write_model_card
from tern.config import ModelConfig, TrainConfig

FIELDS = {
    "fingerprint": "0123456789ab", "model": ModelConfig(), "region_dim": 20, "token_dim": 14,
    "region_recipe": "a" * 12, "token_recipe": "b" * 12, "fine_tuned": False, "num_parameters": 7,
}  # fmt: skip
TRAINED = {"config": TrainConfig(region_drop=0.5), "epoch": 3, "metrics": {"rsum": 1 / 3, "t2i_r1": 25.0}}
IMPORTED = {"checkpoint": "model_best_rsum.pth.tar", "sha256": "c" * 64}


@pytest.mark.parametrize("extra", [TRAINED, IMPORTED], ids=["trained", "imported"])
def test_model_card_is_read_back_as_written(tmp_path, extra):
    card = ModelCard(**FIELDS, **extra)
    path = write_model_card(tmp_path, card)
    assert path.name == MODEL_CARD
    assert read_model_card(tmp_path) == card
    content = json.loads(path.read_text())
    assert content["schema"] == 11
    assert content.keys() == {"schema", "network", "alignment_weight", *FIELDS, *extra}, (
        "fields without a value are left out"
    )


def test_card_of_a_preset_that_is_gone_is_read_with_its_values(tmp_path):
    card = ModelCard(**FIELDS, **TRAINED)
    path = write_model_card(tmp_path, card)
    path.write_text(path.read_text().replace('"preset": "default"', '"preset": "small-data"'))
    assert '"small-data"' in path.read_text()
    assert read_model_card(tmp_path) == card


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"schema": 7},
            r"card schema 7, written by an older version of this program; this version reads schema 11\.",
        ),
        ({"schema": 12}, "card schema 12, written by a newer version of this program"),
        ({"schema": None}, "card schema None, which no version of this program writes"),
        (
            {"network": 0},
            "network version 0, written by an older version of this program; this version reads",
        ),
        ({"network": 2}, "network version 2, written by a newer version"),
        ({"regions": "a" * 12}, "another version of this program wrote it: regions"),
        (
            {"model": {"gating": True}},
            r"another version of this program wrote it: model\.gating.*the stores and",
        ),
        ({"region_dim": "many"}, "region_dim"),
        ({"model": {"architecture": "modern"}}, "model.architecture"),
    ],
)
def test_model_card_that_does_not_fit_is_rejected(tmp_path, change, message):
    path = write_model_card(tmp_path, ModelCard(**FIELDS, **TRAINED))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=message):
        read_model_card(tmp_path)


def test_model_card_without_a_key_is_of_another_version(tmp_path):
    path = write_model_card(tmp_path, ModelCard(**FIELDS, **TRAINED))
    content = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "token_dim"}))
    with pytest.raises(ValueError, match=r"another version of this program wrote it: token_dim.*run `tern train`"):
        read_model_card(tmp_path)


def test_model_card_of_schema_8_is_of_network_version_1(tmp_path):
    path = write_model_card(tmp_path, ModelCard(**FIELDS, **TRAINED))
    content = json.loads(path.read_text()) | {"schema": 8}
    path.write_text(json.dumps({key: value for key, value in content.items() if key != "network"}))
    assert read_model_card(tmp_path).network == 1


def test_folder_without_model_card_is_rejected(tmp_path):
    with pytest.raises(FileNotFoundError, match="training has not finished"):
        read_model_card(tmp_path)
