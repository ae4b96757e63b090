"""Reader of a folder of images without annotations: every image of the folder and its subfolders, without captions."""

from data.config import DatasetConfig
from data.datasets.entry import Annotations, Entry, make_invalid_entry
from data.images.folder import ImageFolder, Selection, scan_image_folder
from data.text import compile_globs


def read_folder_tree(config: DatasetConfig) -> Annotations:
    """Read the names of all images of a folder. No file is opened.

    Raises:
        ValueError: The folder cannot be read, or has no image.
    """
    folder = scan_dataset_folder(config)
    if reason := folder.problems.get("."):
        raise ValueError(f"{config.images}: {reason}. Change its permissions, or set `images` to another folder.")
    if not folder.images and not folder.problems:
        raise ValueError(
            f"{config.images} has no image: it holds {folder.describe_files()}. Set `images` to the folder of the "
            "images."
        )
    entries = [Entry(name, name, None) for name in folder.images]
    problems = [make_invalid_entry(name, text) for name, text in folder.problems.items()]
    return Annotations([*entries, *problems], folder.describe_left_out(config.images))


def scan_dataset_folder(config: DatasetConfig) -> ImageFolder:
    """Find the images of a folder that the settings of a dataset select."""
    selection = Selection(compile_globs(config.include), compile_globs(config.exclude), config.max_depth)
    return scan_image_folder(config.images, config.annotations, selection)
