"""The stages: plain functions of a config, inputs and a workspace, that return the folder or file they made.

Each is safe to call again: what is there already is found by its name and not made twice. `each` is the `map` to use
over shards: the built-in one, worker processes with a progress bar, or Prefect tasks.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from data.content import FileHashCache
from data.datasets import DatasetConfig, load_dataset
from data.demo import generate_demo_dataset
from data.files import digest, read_json, sha256_text, write_json
from data.formats.flat_rows import RegionFile, RegionFileConfig
from data.records import Dataset
from data.shards import Item, ShardPlan, open_or_create_store, store_update, write_shard
from data.store import Store
from extractors.catalogue import build_region_extractor, region_store_recipe
from extractors.configs import RegionsConfig, TextConfig
from extractors.images import load_image
from extractors.stream import DEVICE_LOCK, extract_from_paths
from extractors.text import MEAN_LAST_4, TextEncoder, TextExtractor
from pipeline.plan import Plan
from pipeline.workers import MapFn
from tern.convert import check_checkpoint_file, load_bert_weights, load_paper_checkpoint
from tern.convert import import_checkpoint as adopt_authors
from tern.distributed import resolve_device
from tern.embed import embed_captions, embed_images
from tern.embed import load_model as load_model
from tern.evaluation import EvaluationConfig, evaluate_vectors
from tern.train import TrainConfig, fingerprint
from tern.train import train as train_tern

VECTORS_PER_SHARD = 50_000  # rows; 51 MB a shard at 512 wide in half precision
HELD_OUT = ("val", "test")


@dataclass(frozen=True)
class VectorStores:
    """The two vector stores of one model."""

    images: Path
    captions: Path


def load_plan_dataset(plan: Plan, each: MapFn = map) -> Dataset:
    """The data set of a plan; the demo's is drawn first if it is not there yet."""
    if plan.dataset is not None:
        return load_dataset(plan.dataset)
    folder = generate_demo_dataset(plan.demo, plan.workspace / "dataset", map_fn=each)
    annotations = folder / "dataset_demo.json"
    return load_dataset(DatasetConfig(name="demo", annotations=annotations, images=folder / "images"))


@dataclass(frozen=True)
class ExtractionJob:
    """One shard to extract: picklable, so that any `map` can carry it to any process."""

    config: RegionsConfig | RegionFileConfig | TextConfig
    folder: Path
    plan: ShardPlan
    sources: tuple[Any, ...]  # a path an image, or a text a caption

    @property
    def num_items(self) -> int:
        """Items, for the progress bar."""
        return len(self.sources)

    @property
    def uses_gpu(self) -> bool:
        """Whether such jobs belong into threads of one process: a GPU holds one copy of the detector."""
        return getattr(self.config, "device", "cpu") != "cpu"


@lru_cache(maxsize=2)  # one of each kind: a process that makes many shards loads its weights once
def get_extractor(config: RegionsConfig | RegionFileConfig | TextConfig) -> Any:
    """The extractor of a config, made once."""
    kinds = {RegionFileConfig: RegionFile, TextConfig: TextExtractor}
    return kinds.get(type(config), build_region_extractor)(config)


def extract_regions(
    config: RegionsConfig | RegionFileConfig,
    dataset: Dataset,
    workspace: Path,
    images_per_shard: int,
    map_fn: MapFn = map,
) -> Path:
    """Region features of every image that is new or changed, into a store. Returns the store's folder.

    An image that cannot be read is set aside in the store's manifest with its reason, and the run goes on. One that the
    data set no longer has is listed no longer.
    """
    folder = open_or_create_store(workspace / "stores", "regions", region_store_recipe(get_extractor(config)))
    paths = {image.id: image.path for image in dataset.images}
    hashes = FileHashCache(workspace).get_hashes(paths.values())
    items = [Item(*pair) for pair in zip(paths, hashes, strict=True)]
    return _extract(extract_region_shard, config, folder, items, paths, images_per_shard, map_fn)


def extract_tokens(
    config: TextConfig, dataset: Dataset, workspace: Path, captions_per_shard: int, each: MapFn = map
) -> Path:
    """Token features of every caption that is new or changed, into a store. Returns the store's folder."""
    folder = open_or_create_store(workspace / "stores", "tokens", get_extractor(config).recipe)
    texts = {caption.id: caption.text for caption in dataset.captions}
    items = [Item(name, sha256_text(text)) for name, text in texts.items()]
    return _extract(extract_token_shard, config, folder, items, texts, captions_per_shard, each)


def _extract(
    function: Callable[[ExtractionJob], str],
    config: Any,
    folder: Path,
    items: list[Item],
    sources: dict[str, Any],
    per_shard: int,
    each: MapFn,
) -> Path:
    with store_update(folder, items, per_shard) as plans:
        jobs = [ExtractionJob(config, folder, plan, tuple(sources[item.id] for item in plan.items)) for plan in plans]
        list(each(function, jobs))
    if items and not len(store := Store(folder)):
        name, reason = next(iter(store.invalid_items.items()))
        raise ValueError(f"{folder}: none of {len(items)} items could be extracted; the first, {name}: {reason}")
    return folder


def extract_region_shard(job: ExtractionJob) -> str:
    """Make one shard of a region store; returns its file name."""
    return write_shard(job.folder, job.plan, _region_rows(job))


def _region_rows(job: ExtractionJob) -> Iterator[dict[str, Any] | str]:
    extractor = get_extractor(job.config)
    if isinstance(extractor, RegionFile):
        yield from extractor.rows([item.id for item in job.plan.items])
        return
    with closing(extract_from_paths(extractor, job.sources, load_image)) as found:
        for regions in found:
            yield regions if isinstance(regions, str) else vars(regions)


def extract_token_shard(job: ExtractionJob) -> str:
    """Make one shard of a token store; returns its file name."""

    def rows() -> Iterator[dict[str, Any]]:
        with DEVICE_LOCK:  # two shards that share a GPU take turns
            found = get_extractor(job.config)(list(job.sources))
        yield from (vars(tokens) for tokens in found)

    return write_shard(job.folder, job.plan, rows())


def check_region_store(folder: Path, dataset: Dataset) -> Path:
    """A region store that is there already, for the images of the data set that are in it. Returns its folder.

    Raises FileNotFoundError if there is no store, ValueError if it is of another kind or none of the images is in it.
    """
    store = Store(folder)
    if store.kind != "regions":
        raise ValueError(f"{folder} holds {store.kind}: set `regions_store` to the folder of a region store.")
    if not any(image.id in store for image in dataset.images):
        ours, theirs = dataset.images[0].id, next(iter(store.ids), "nothing")
        raise ValueError(
            f"{folder}: none of the {len(dataset.images):,} images of {dataset.name} is in the store. It holds "
            f'{theirs!r}, the data set {ours!r}: import again with another --ids, such as "{{id}}.jpg".'
        )
    return folder


def select_valid(dataset: Dataset, regions: Path, tokens: Path) -> Dataset:
    """The data set less the images and captions that no features are stored of: what later stages work on."""
    store = Store(regions)
    kept = dataset.exclude_images({image.id for image in dataset.images if image.id not in store})
    silent = set(Store(tokens).invalid_items)
    return replace(kept, captions=tuple(caption for caption in kept.captions if caption.id not in silent))


def train_model(
    config: TrainConfig,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Path,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    text: TextConfig | None = None,
) -> Path:
    """Train TERN, or go on where a run of this very config and data was stopped. Returns the model's folder.

    `text` is what the tokens were extracted with, for a config with `fine_tune`.
    """
    region_store, token_store = Store(regions), Store(tokens)
    name = fingerprint(config, region_store, token_store, dataset)
    folder, device = workspace / "models" / f"tern-{name}", resolve_device(config.device)
    encoder = TextEncoder(text) if config.fine_tune and text else None
    return train_tern(config, region_store, token_store, dataset, folder, on_epoch, device, encoder)


def check_checkpoint(checkpoint: Path, text: TextConfig, workspace: Path) -> None:
    """What can be told of a checkpoint before any feature is extracted for it; nothing of one that was adopted before.

    Raises:
        FileNotFoundError: no such file
        ValueError: it cannot be read, or its BERT is not the one in [text], or that gives a mean of several layers,
            where the authors' networks read one
    """
    check_checkpoint_file(checkpoint)
    if text.layer == MEAN_LAST_4:
        raise ValueError(
            f"text.layer is {MEAN_LAST_4!r}, and {checkpoint} was trained on one layer: text.layer=6 is the authors'"
        )
    if any(read_json(card).get("checkpoint") == checkpoint.name for card in workspace.glob("models/*/model.json")):
        return
    _, bert = load_paper_checkpoint(checkpoint)
    if bert:
        load_bert_weights(TextEncoder(text), bert, checkpoint)


def import_paper_checkpoint(checkpoint: Path, regions: Path, tokens: Path, workspace: Path, text: TextConfig) -> Path:
    """The model of one of the authors' checkpoints, used as it is. Returns its folder."""
    stores = Store(regions), Store(tokens)
    return adopt_authors(checkpoint, workspace / "models", *stores, lambda: TextEncoder(text))


@dataclass(frozen=True)
class EmbeddingJob:
    """One shard of vectors to make, from the rows of a feature store."""

    model: Path
    source: Path
    modality: str
    folder: Path
    plan: ShardPlan
    text: TextConfig | None = None

    @property
    def size(self) -> int:
        """Items, for the progress bar."""
        return len(self.plan.items)


def embed_dataset(
    model: Path,
    regions: Path,
    tokens: Path,
    dataset: Dataset,
    workspace: Path,
    each: MapFn = map,
    text: TextConfig | None = None,
) -> VectorStores:
    """Unit vectors of every image and caption that has none of this model yet. Returns the two stores' folders.

    `text` is what the tokens were extracted with, for a model whose text encoder was fine-tuned.

    Raises ValueError if the features are not of the extractors that the model was trained on.
    """
    card, sources = read_json(model / "model.json"), {"regions": Store(regions), "tokens": Store(tokens)}
    for kind, store in sources.items():
        if digest(store.recipe) != card[kind]:
            raise ValueError(
                f"{model} was trained on {kind}-{card[kind]}, not on {store.folder.name}: the plan's extractor has "
                "changed. Train again with `tern train`, or give the plan its old settings."
            )
    folders, jobs = {}, []
    ids = {"image": [image.id for image in dataset.images], "caption": [caption.id for caption in dataset.captions]}
    with ExitStack() as stores:
        for side, store in zip(ids, sources.values(), strict=True):
            folders[side] = open_or_create_store(
                workspace / "vectors", "vectors", {"model": model.name, "modality": side}
            )
            items = [Item(*pair) for pair in zip(ids[side], store.content_hashes(ids[side]), strict=True)]
            plans = stores.enter_context(store_update(folders[side], items, VECTORS_PER_SHARD))
            jobs += [EmbeddingJob(model, store.folder, side, folders[side], plan, text) for plan in plans]
        list(each(embed_shard, jobs))
    return VectorStores(folders["image"], folders["caption"])


def embed_shard(job: EmbeddingJob) -> str:
    """Make one shard of a vector store; returns its file name."""
    function = {"image": embed_images, "caption": embed_captions}[job.modality]
    blocks = function(load_trained_model(job.model, job.text), Store(job.source), [item.id for item in job.plan.items])
    return write_shard(job.folder, job.plan, ({"features": row[None]} for _, rows in blocks for row in rows))


@lru_cache(maxsize=1)
def load_trained_model(folder: Path, text: TextConfig | None) -> Any:
    """The model of a folder; with its own text encoder, of the kind that `text` says, if that was fine-tuned."""
    encoder = TextEncoder(text) if text and read_json(folder / "model.json").get("fine_tuned") else None
    return load_model(folder, text=encoder)


def evaluate_splits(
    vectors: VectorStores,
    dataset: Dataset,
    workspace: Path,
    splits: tuple[str, ...] = HELD_OUT,
    config: EvaluationConfig | None = None,
) -> Path:
    """Recall, ranks and rsum of each split, both directions, by ids. Returns the file, named by all that goes in."""
    config = config or EvaluationConfig()
    images, captions = Store(vectors.images), Store(vectors.captions)
    content = [images.recipe, images.manifest["shards"], captions.manifest["shards"]]
    truth = sorted((c.id, c.image_id) for c in dataset.captions)
    asked = sorted((image.id, image.split) for image in dataset.images if image.id in images)
    extra = [] if config == EvaluationConfig() else [config.model_dump(mode="json"), _stamps(config, splits)]
    folder = workspace / "evaluation"
    path = folder / f"metrics-{digest([content, truth, asked, splits, *extra])}.json"
    if path.exists():
        return path
    found: dict[str, Any] = {}
    texts = {caption.id: caption.text for caption in dataset.captions}
    for name in splits_with_captions(dataset, splits):
        image_ids, caption_ids, owners = held_out_ids(dataset, images, name)
        rows = (s.read("features", ids).astype("float32") for s, ids in ((images, image_ids), (captions, caption_ids)))
        said = [texts[caption] for caption in caption_ids]
        metrics = evaluate_vectors(config, tuple(rows), image_ids, owners, said, name, folder)
        found[name] = {"images": len(image_ids), "captions": len(caption_ids), **metrics}
    return write_json(path, found)


def _stamps(config: EvaluationConfig, splits: tuple[str, ...]) -> list[tuple[int, int]]:
    """Size and time of the files of relevances, so that a new file gives a new evaluation."""
    paths = [Path(config.spice_file.replace("{split}", split)) for split in splits if config.spice_file]
    return [(path.stat().st_size, path.stat().st_mtime_ns) for path in paths if path.is_file()]


def splits_with_captions(dataset: Dataset, splits: tuple[str, ...]) -> list[str]:
    """Those of the splits in which something can be asked: they have images and captions."""
    return [name for name in splits if name in dataset.count_images_by_split() and dataset.select_split(name).captions]


def held_out_ids(dataset: Dataset, images: Store, split: str) -> tuple[list[str], list[str], list[str]]:
    """Image ids, caption ids and each caption's image id of one split, as far as there are vectors of them."""
    part = dataset.select_split(split)
    image_ids = [image.id for image in part.images if image.id in images]
    kept = set(image_ids)
    captions = [caption for caption in part.captions if caption.image_id in kept]
    return image_ids, [caption.id for caption in captions], [caption.image_id for caption in captions]
