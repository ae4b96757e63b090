"""Formats of region features by name, and how to detect them (docs/reference/region-formats.md)."""

from pathlib import Path

from data.config import ReadOptions
from data.formats import per_image, precomp, tsv, vqa_hdf5
from data.formats.arrays import is_transient_error
from data.formats.base import Format
from data.formats.flat_rows import FLAT
from data.formats.npz import Npz

_ALL = (
    tsv.LXMERT_TSV,
    tsv.BUTD,
    per_image.MILVLG,
    per_image.MCAN,
    per_image.RUOTIANLUO,
    per_image.TERN,
    precomp.PRECOMP,
    vqa_hdf5.FIXED,
    vqa_hdf5.ADAPTIVE,
    FLAT,
)
FORMATS: dict[str, Format] = {known.name: known for known in _ALL}


def get_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        ValueError: The name is unknown; the message lists the known ones.
    """
    if name not in FORMATS:
        known = ", ".join(FORMATS)
        raise ValueError(
            f"Unknown format {name!r}; --format must be one of {known} (see docs/reference/region-formats.md)."
        )
    return FORMATS[name]


def detect_format(path: Path, options: ReadOptions) -> Format:
    """Detect the format of a file or folder by its suffix, columns and arrays.

    Args:
        path: File, folder, or common prefix of the folders `*_att` and `*_box`.
        options: How to read what the format leaves open.

    Raises:
        FileNotFoundError: Nothing is at the path.
        ValueError: No format, or more than one, fits.
    """
    if path.is_file():
        name = _detect_file_format(path)
    elif path.is_dir():
        name = _detect_folder_format(path, options)
    elif path.with_name(path.name + "_att").is_dir():
        name = "tern" if path.name == "bu" else "ruotianluo"
    else:
        raise FileNotFoundError(f"Nothing is at {path}. Pass a file, a folder, or the prefix of a folder *_att.")
    if not name:
        raise ValueError(f"{path} has no known format. Pass --format with one of {', '.join(FORMATS)}.")
    return FORMATS[name]


def _detect_file_format(path: Path) -> str:
    if path.name.endswith(precomp.SUFFIX):
        return "precomp"
    if path.suffix in (".hdf5", ".h5"):
        return "vqa-h5-adaptive" if vqa_hdf5.is_adaptive(path) else "vqa-h5"
    if path.suffix == ".npz":
        with Npz(path) as archive:
            return "flat-npz" if {"filename", "offset"} <= set(archive.names) else ""
    if ".tsv" in path.suffixes:  # including train.tsv.0, the name of the published files
        return {6: "butd-tsv", 10: "lxmert-tsv"}.get(tsv.count_columns(path), "")
    return ""


def _detect_folder_format(path: Path, options: ReadOptions) -> str:
    if any(path.glob(f"*{precomp.SUFFIX}")):
        return "precomp"
    if att := sorted(path.glob("*_att")):
        return "tern" if att[0].name == "bu_att" else "ruotianluo"
    for _, file in per_image.iter_files(path, (".npz",)):
        try:
            return per_image.detect_variant(file, options)
        except per_image.AmbiguousFormatError:
            raise
        except per_image.PER_IMAGE_READ_ERRORS as error:  # an invalid record; the next file decides
            if is_transient_error(error):
                raise
    return ""
