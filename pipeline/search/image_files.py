"""Files of the images of an index, inside the folder of images only."""

from pathlib import Path

from index.metadata import Row


def find_image_file(root: Path | None, row: Row) -> Path | None:
    """Return the path of the file of an image.

    Args:
        root: Folder of images; None if it is not known.
        row: Metadata of the image. Those of an imported index come from somebody else.

    Returns:
        The path; None if the metadata name no file, or one outside of the folder, or if there is no folder.
    """
    path = Path(row.path or "")
    return None if root is None or not row.path or path.is_absolute() or ".." in path.parts else root / path
