"""Find the images of a folder that the settings of a dataset select."""

from data.config import DatasetConfig
from data.images.folder import ImageFolder, Selection, scan_image_folder
from data.text import compile_globs


def scan_dataset_folder(config: DatasetConfig) -> ImageFolder:
    """Find the images of a folder that the settings of a dataset select. No file is opened."""
    return scan_image_folder(config.images, config.annotations, make_selection(config))


def make_selection(config: DatasetConfig) -> Selection:
    """Make the selection of images of the settings of a dataset."""
    return Selection(compile_globs(config.include), compile_globs(config.exclude), config.max_depth)
