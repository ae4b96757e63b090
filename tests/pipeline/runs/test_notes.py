"""Notes about figures that mean little: near chance, best epoch first, the demo detector on other images."""

from pathlib import Path

import pytest

from data.config import DatasetConfig, DemoConfig
from data.datasets import load_dataset
from extractors.config import GridConfig, TorchvisionConfig
from pipeline.plans.notes import describe_extractor
from pipeline.plans.plan import Plan
from pipeline.runs.notes import describe_chance, describe_splits, describe_training
from tern.card import ModelCard
from tern.config import ModelConfig, TrainConfig
from tern.evaluation import ChanceRecalls, Evaluation, RetrievalMetrics, SplitEvaluation, chance_recalls

DEMO = TorchvisionConfig(model="demo", weights="demo")
MINE = DatasetConfig(name="mine", annotations=Path("c.csv"), images=Path("photos"))


def evaluate(recalls: dict[str, float], num_images: int) -> Evaluation:
    ranks = {f"{direction}_{name}": 1.0 for direction in ("t2i", "i2t") for name in ("medr", "meanr")}
    metrics = RetrievalMetrics.from_flat({**recalls, **ranks, "rsum": sum(recalls.values())})
    chance = ChanceRecalls(**chance_recalls([5] * num_images))
    return Evaluation(
        splits={"test": SplitEvaluation(images=num_images, captions=5 * num_images, metrics=metrics, chance=chance)}
    )


def test_chance_is_described_with_the_recalls_that_are_near_it() -> None:
    perfect = {f"{direction}_r{k}": 100.0 for direction in ("t2i", "i2t") for k in (1, 5, 10)}
    first, near = describe_chance(evaluate(perfect, 3))
    assert first.startswith("test: 3 images, 15 captions. Chance: text to image R@1 33.3, R@5 100.0, R@10 100.0;")
    assert "rsum 4" in first
    assert near.startswith("test: too few images (3) to tell these from chance: ")
    assert near.endswith("text to image R@5, R@10; image to text R@5, R@10.")
    only = describe_chance(evaluate(perfect, 100))
    assert len(only) == 1
    assert only[0].endswith("rsum 31.6.")


@pytest.mark.parametrize(
    ("epoch", "epochs", "has_note"), [(1, 30, True), (2, 30, False), (1, 1, False), (None, 30, False)]
)
def test_best_epoch_that_is_the_first_has_a_note(epoch: int | None, epochs: int, has_note: bool) -> None:
    card = ModelCard(
        schema=8, fingerprint="0" * 12, config=TrainConfig(epochs=epochs), model=ModelConfig(), region_dim=8,
        token_dim=8, region_recipe="a", token_recipe="b", fine_tuned=False, num_parameters=1, epoch=epoch,
    )  # fmt: skip
    assert bool(describe_training(card)) == has_note
    assert all("The best of 30 epochs is the first" in note for note in describe_training(card))


@pytest.mark.parametrize(
    ("settings", "has_note"),
    [
        ({"demo": DemoConfig(), "regions": DEMO}, False),
        ({"dataset": MINE, "regions": DEMO}, True),
        ({"dataset": MINE, "regions": DEMO.model_copy(update={"weights": "my/demo.safetensors"})}, True),
        ({"dataset": MINE, "regions": TorchvisionConfig()}, False),
        ({"dataset": MINE, "regions": GridConfig()}, False),
        ({"dataset": MINE, "regions_store": Path("store")}, False),
    ],
)
def test_demo_detector_of_other_images_has_a_note(tmp_path: Path, settings: dict, has_note: bool) -> None:
    notes = describe_extractor(Plan(workspace=tmp_path, **settings))
    assert bool(notes) == has_note
    assert all("made for drawn scenes, not for photographs" in note for note in notes)


@pytest.mark.parametrize(("column", "num_drawn"), [("", 26), ("split", 0)])
def test_splits_that_were_drawn_have_a_note(tmp_path: Path, column: str, num_drawn: int) -> None:
    lines = [f"image,caption,{column}".rstrip(",")]
    (tmp_path / "photos").mkdir()
    for i in range(26):
        (tmp_path / "photos" / f"im{i}.jpg").write_bytes(b"jpeg")
        lines.append(f"im{i}.jpg,text {i}" + (",train" if column else ""))
    (tmp_path / "c.csv").write_text("\n".join(lines) + "\n")
    config = DatasetConfig(name="x", format="folder", annotations=tmp_path / "c.csv", images=tmp_path / "photos")
    dataset = load_dataset(config)
    assert dataset.num_drawn == num_drawn
    notes = describe_splits(dataset)
    assert bool(notes) == bool(num_drawn)
    assert all(note.startswith("The split of 26 images was chosen by a hash of their content") for note in notes)
    assert all(f"{count} {name}" in note for note in notes for name, count in dataset.count_images_by_split().items())
