"""Formats of the sources of an import, and the recipe of the store that it fills."""

from pathlib import Path

from data.config import ImportConfig
from data.formats.base import Format
from data.formats.catalogue import detect_format, get_format
from data.manifest.schema import FeatureDtype, Recipe
from data.text import read_lines

VERSION = 3  # raise it when equal settings give other numbers: it is part of the recipe
MAX_VOCABULARY_BYTES = 16 << 20


def detect_formats(config: ImportConfig) -> list[Format]:
    """Return the format of each source, as configured or detected.

    Raises:
        FileNotFoundError: A source is missing.
        ValueError: The format is unknown or cannot be detected.
    """
    if config.format != "auto":
        kind = get_format(config.format)
        missing = [path for path in config.sources if not path.exists() and not kind.is_prefix]
        if missing:
            raise FileNotFoundError(f"Nothing is at {missing[0]}. Pass a {'folder' if kind.is_folder else 'file'}.")
        return [kind] * len(config.sources)
    return [detect_format(path, config.options) for path in config.sources]


def count_images(config: ImportConfig) -> int:
    """Count the images of the sources, for a progress bar; for a TSV an estimate from its first line."""
    return sum(kind.count(path) for kind, path in zip(detect_formats(config), config.sources, strict=True))


def make_import_recipe(config: ImportConfig, formats: list[Format]) -> Recipe:
    """Return the recipe of the store: name of the features and settings that change numbers or ids.

    Without a name the paths of the sources stand for it: two folders `features` of two models share no store. The
    content of the files is in the hashes of the items, so that a second file of the same features can be added.
    """
    options = config.options
    return {
        "extractor": "import",
        "version": VERSION,
        "source": config.name or "+".join(str(path.resolve()) for path in config.sources),
        "formats": sorted({kind.name for kind in formats}),
        "ids": config.id_template,
        "dtype": get_feature_dtype(config),
        "sizes": config.sizes,
        "boxes": config.boxes,
        "transposed": options.transposed,
        "arrays": list(options.arrays),
        "normalize": options.normalize,
        "pickled": sorted(options.allow_pickle),
        "classes": _read_vocabulary(config.classes),
        "attributes": _read_vocabulary(config.attributes),
    }


def get_feature_dtype(config: ImportConfig) -> FeatureDtype:
    """Return the dtype of the features in the store."""
    return "float16" if config.float16 else "float32"


def _read_vocabulary(path: Path | None) -> list[str]:
    if path is None:
        return []
    if path.stat().st_size > MAX_VOCABULARY_BYTES:
        raise ValueError(
            f"{path} has more than {MAX_VOCABULARY_BYTES:,} bytes. Pass a text file with one name per line."
        )
    return [line.strip() for line in read_lines(path)]
