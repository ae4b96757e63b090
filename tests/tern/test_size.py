"""Settings that follow from the size of the dataset: only those that nobody set, and only of the preset `default`."""

from pathlib import Path

import pytest

from data.datasets.records import Caption, Dataset, Image
from tern.config import TrainConfig
from tern.size import complete_settings


def make_dataset(train, captions, val, uncaptioned=0):
    """A dataset with `captions` captions for each image of train, one for each of val, and images without captions."""
    names = [f"{split}{number}" for split, count in (("train", train), ("val", val)) for number in range(count)]
    images = [Image(name, Path(name), name.rstrip("0123456789")) for name in names]
    images += [Image(f"bare{k}", Path("bare"), ("train", "val")[k % 2]) for k in range(uncaptioned)]
    owned = [(name, number) for name in names for number in range(captions if name.startswith("train") else 1)]
    texts = tuple(Caption(f"{name}#{number}", name, "a dog") for name, number in owned)
    return Dataset(name="drawn", root=Path(), images=tuple(images), captions=texts)


@pytest.mark.parametrize(
    ("train", "captions", "val", "epochs", "window", "few"),
    [
        (1000, 5, 100, 20, 5, 1),
        (4000, 5, 250, 10, 2, 0.245),  # four times the images, twice the steps
        (4000, 1, 500, 22, 1, 1),  # 4,000 captions count as 800 images
        (4000, 7, 1000, 10, 1, 0.245),
        (10, 5, 1, 40, 5, 1),
        (7000, 5, 400, 8, 1, 0),
    ],
)
def test_settings_follow_the_size(train, captions, val, epochs, window, few):
    config = complete_settings(TrainConfig(), make_dataset(train, captions, val, uncaptioned=50))
    assert (config.epochs, config.selection_window) == (epochs, window)
    weak, strong = (0.3, 0.5, 0.07), (0.1, 0.7, 0.1)
    values = config.model.transformer_scale, config.model.shortcut_dropout, config.loss.temperature
    assert values[1] == pytest.approx(weak[1] + few * (strong[1] - weak[1]), abs=1e-3)
    assert values[0] == pytest.approx(weak[0] * (strong[0] / weak[0]) ** few, abs=1e-3)
    assert values[2] == pytest.approx(weak[2] * (strong[2] / weak[2]) ** few, abs=1e-3)
    assert complete_settings(config, make_dataset(100, 5, 100)) == config, "completed settings stay"


def test_settings_of_the_plan_and_of_other_presets_are_kept():
    dataset = make_dataset(1000, 5, 100)
    config = complete_settings(TrainConfig(epochs=30, model={"shortcut_dropout": 0.5}), dataset)
    assert (config.epochs, config.model.shortcut_dropout, config.model.transformer_scale) == (
        30,
        0.5,
        pytest.approx(0.1),
    )
    assert config.model.alignment_dim == 64
    paper = TrainConfig(preset="paper")
    assert complete_settings(paper, dataset) == paper
