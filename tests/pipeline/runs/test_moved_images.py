"""Images that were moved or copied get their features from the store; the numbers are those of a whole extraction."""

import json
import pickle
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image as Picture

from data.config import DatasetConfig
from data.store import CopyJob
from data.store.store import Store
from extractors.config import TextConfig, TorchvisionConfig
from pipeline.plans.plan import Plan
from pipeline.runs import estimate_extraction, preview_stages
from pipeline.runs.runner import PipelineRunner
from pipeline.workers import make_process_map

pytestmark = pytest.mark.slow


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 255, (12, 16, 3), dtype=np.uint8)
    Picture.fromarray(pixels).resize((160, 120), Picture.Resampling.NEAREST).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    for number in range(6):
        draw(tmp_path / "photos" / f"{number}.png", number)
    return tmp_path / "photos"


def make_plan(photos: Path, name: str, images_per_shard: int = 2) -> Plan:
    return Plan(
        workspace=photos.parent / name,
        dataset=DatasetConfig(name="mine", images=photos),
        regions=TorchvisionConfig(model="demo", weights="demo", min_score=0.05),
        text=TextConfig(model="minilm"),
        images_per_shard=images_per_shard,
    )


def change(photos: Path) -> None:
    """Add five images, of which two are equal, change one, rename one, copy one and delete one."""
    for number in range(10, 14):
        draw(photos / f"new/{number}.png", number)
    shutil.copy(photos / "new/11.png", photos / "new/twin.png")
    draw(photos / "1.png", 21)
    (photos / "2.png").rename(photos / "new/renamed.png")
    shutil.copy(photos / "3.png", photos / "new/copy.png")
    (photos / "4.png").unlink()


def read_rows(regions: Path) -> dict[str, dict[str, bytes]]:
    with Store(regions) as store:
        assert store.verify() == []
        return {name: {field: store.read(field, [name]).tobytes() for field in store.fields} for name in store.ids}


@pytest.mark.parametrize("workers", [1, 2])
def test_moved_and_copied_images_are_not_extracted_again(photos: Path, caplog, workers: int) -> None:
    plan = make_plan(photos, "run")
    first = PipelineRunner(plan)
    first.extract(first.load_dataset())
    assert vars(first.item_counts["region features"]) == {"extracted": 6, "copied": 0}
    change(photos)
    runner = PipelineRunner(plan, lambda stage: make_process_map(workers, stage))
    (estimate,) = (one for one in estimate_extraction(plan, runner.load_dataset()) if one.store.startswith("regions"))
    assert (estimate.num_existing, estimate.num_missing, estimate.num_copied) == (3, 5, 3)
    preview = next(one for one in preview_stages(plan) if one.stage == "region features")
    assert (preview.work, preview.reason) == (
        "5 items in 5 shards",
        "new or changed items; 3 more were moved or copied",
    )
    with caplog.at_level("INFO", "pipeline"):
        features = runner.extract(runner.load_dataset())
    assert vars(runner.item_counts["region features"]) == {"extracted": 5, "copied": 3}
    assert any(": 5 extracted, 3 moved or copied" in record.getMessage() for record in caplog.records)
    entries = [json.loads(line) for line in (plan.workspace / "stages.jsonl").read_text().split("\n") if line]
    entries = [entry for entry in entries if entry["stage"] == "region features"]
    assert [(entry["items"], entry.get("copied")) for entry in entries] == [(6, None), (5, 3)]
    whole = PipelineRunner(make_plan(photos, "whole", images_per_shard=50))
    expected = whole.extract(whole.load_dataset())
    assert vars(whole.item_counts["region features"]) == {"extracted": 9, "copied": 2}
    rows = read_rows(features.regions)
    assert rows == read_rows(expected.regions)
    assert sorted(rows) == sorted(image.id for image in features.dataset.images)
    again = PipelineRunner(plan)
    again.extract(again.load_dataset())
    assert vars(again.item_counts["region features"]) == {"extracted": 0, "copied": 0}


@pytest.mark.parametrize("num_jobs", range(6))
def test_killed_update_copies_what_is_missing(photos: Path, num_jobs: int) -> None:
    """The run ends in front of each job: three shards are extracted and then two copied."""
    plan = make_plan(photos, "run")
    first = PipelineRunner(plan)
    first.extract(first.load_dataset())
    change(photos)
    jobs_run: list[Any] = []

    def make_map_fn(stage: str) -> Callable[..., Any]:
        def map_fn(function: Callable[[Any], Any], jobs: Iterable[Any]) -> Iterable[Any]:
            for job in jobs:
                if stage == "region features":
                    if len(jobs_run) == num_jobs:
                        raise KeyboardInterrupt
                    jobs_run.append(pickle.loads(pickle.dumps(job)))
                yield function(job)

        return map_fn

    runner = PipelineRunner(plan, make_map_fn)
    dataset = runner.load_dataset()
    try:
        runner.extract(dataset)
    except KeyboardInterrupt:
        assert num_jobs < 5
    assert [isinstance(job, CopyJob) for job in jobs_run] == [False, False, False, True, True][:num_jobs]
    resumed = PipelineRunner(plan)
    features = resumed.extract(resumed.load_dataset())
    num_extracted = sum(job.num_items for job in jobs_run if not isinstance(job, CopyJob))
    num_copied = sum(job.num_items for job in jobs_run if isinstance(job, CopyJob))
    assert vars(resumed.item_counts["region features"]) == {"extracted": 5 - num_extracted, "copied": 3 - num_copied}
    whole = PipelineRunner(make_plan(photos, "whole"))
    assert read_rows(features.regions) == read_rows(whole.extract(whole.load_dataset()).regions)


def test_copies_of_a_damaged_image_say_which_image_it_is(photos: Path) -> None:
    for name in ("x.png", "y.png"):
        (photos / name).write_bytes((photos / "0.png").read_bytes()[:300])
    runner = PipelineRunner(make_plan(photos, "run"))
    records = {record.name: record.reason for record in runner.extract(runner.load_dataset()).invalid_records}
    assert set(records) == {"x.png", "y.png"}
    assert records["y.png"] == f"its content is that of x.png: {records['x.png']}"
