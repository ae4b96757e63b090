"""What hardware changes is part of a name, and what was made on other hardware is found."""

from pathlib import Path

import pytest

from data.io import digest
from extractors.torch_free import device_recipe
from pipeline.search.encoder_pool import EncoderPool
from pipeline.stages.train import _choose_model_folder
from tern.card import MODEL_CARD
from tern.training import describe_hardware

RECIPE = {"extractor": "text", "version": 3}


@pytest.mark.parametrize(("device", "part", "suffix"), [("cpu", {}, ""), ("cuda:1", {"device": "cuda"}, "-cuda")])
def test_device_is_part_of_names_unless_it_is_the_cpu(device: str, part: dict, suffix: str) -> None:
    assert device_recipe(device) == part
    assert describe_hardware(device) == suffix


def test_number_of_processes_is_part_of_the_name_of_a_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(describe_hardware.__globals__, "get_rank_and_world_size", lambda: (0, 4))
    assert describe_hardware("cpu") == "-4-processes"
    assert describe_hardware("cuda:0") == "-cuda-4-processes"


def test_model_of_other_hardware_is_used_once_it_is_finished(tmp_path: Path) -> None:
    base, other = tmp_path / "tern-0123456789ab", tmp_path / "tern-0123456789ab-cuda"
    assert _choose_model_folder(base, "cpu") == base
    other.mkdir()
    assert _choose_model_folder(base, "cpu") == base, "an unfinished training is of no use"
    (other / MODEL_CARD).write_text("{}")
    assert _choose_model_folder(base, "cpu") == other
    base.mkdir()
    (base / MODEL_CARD).write_text("{}")
    assert _choose_model_folder(base, "cpu") == base
    assert _choose_model_folder(base, "cuda:0") == other


@pytest.mark.parametrize(("made_on", "runs_on"), [({}, {"device": "cuda"}), ({"device": "cuda"}, {}), ({}, {})])
def test_query_extractor_may_run_on_another_device_than_the_store(made_on: dict, runs_on: dict) -> None:
    built_from = f"tokens-{digest(RECIPE | made_on)}"
    pool = EncoderPool(Path("models"), None, None, None)
    pool._check_extractor(RECIPE | runs_on, built_from, "text")
    with pytest.raises(ValueError, match=r"configures another extractor .* or an older version of this program"):
        pool._check_extractor(RECIPE | runs_on | {"version": 2}, built_from, "text")
