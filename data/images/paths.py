"""Find the reason why the path of an image cannot be used."""

import os
import stat
import unicodedata
from pathlib import Path
from typing import Any

from data.images.sources import find_shard, has_member
from data.io.files import TRANSIENT_ERRNOS


class ImagePaths:
    """Paths of images below a folder; each of its subfolders is resolved once.

    Args:
        root: Folder of images, resolved.
    """

    def __init__(self, root: Path) -> None:
        self._root, self._start = root, str(root)
        self._is_inside: dict[str, bool] = {}  # whether a folder or shard is below the root when it is resolved

    def find_problem(self, relative: Any) -> str:
        """Find why no image can be read at a path; an empty text if nothing is wrong.

        Args:
            relative: Path below the root; anything that is not a path is a problem.

        Raises:
            OSError: A transient I/O error occurred.
        """
        try:
            if self._is_plain_file(relative):
                return ""
            shard = find_shard(os.path.join(self._start, relative))
            if shard is None:
                return _find_problem(relative, self._root)
            return "" if self._is_member(*shard) else f"no such image in a shard of the folder: {relative}"
        except (OSError, ValueError, TypeError, RuntimeError) as error:  # RuntimeError: a loop of links in Python 3.12
            if getattr(error, "errno", None) in TRANSIENT_ERRNOS:
                raise
            return f"its path cannot be used: {getattr(error, 'strerror', None) or error}"

    def _is_member(self, shard: str, name: str) -> bool:
        """Return whether a shard is below the root and has an image of this name."""
        if shard not in self._is_inside:
            self._is_inside[shard] = Path(shard).resolve().is_relative_to(self._root)
        return self._is_inside[shard] and has_member(shard, name)

    def _is_plain_file(self, relative: Any) -> bool:
        """Return whether a path is certainly a file below the root: no link, in a folder that is resolved already."""
        path = os.path.join(self._start, relative)
        folder = os.path.dirname(path)
        if (is_inside := self._is_inside.get(folder)) is None:
            is_inside = self._is_inside[folder] = Path(folder).resolve().is_relative_to(self._root)
        try:
            return is_inside and stat.S_ISREG(os.lstat(path).st_mode)
        except OSError:  # the slow way finds the reason
            return False


def _find_problem(relative: Any, root: Path) -> str:
    path = root / relative
    target = path.resolve()
    if not target.is_relative_to(root):
        what = "it is a link that" if path.is_symlink() else "its path"
        return f"{what} leaves the folder of images: {relative}"
    if target.is_file():
        return ""
    if path.is_symlink():
        return f"a link to nothing: {relative} -> {os.readlink(path)}"
    if target.exists():
        return f"{'a folder' if target.is_dir() else 'a pipe, socket or device'}, not a file: {relative}"
    forms = [form for form in ("NFC", "NFD") if Path(unicodedata.normalize(form, str(path))).is_file()]
    hint = f"; a file exists whose name is spelled in the {forms[0]} form of Unicode" if forms else ""
    return f"no such file: {relative}{hint}"
