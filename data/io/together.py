"""Write several files that belong together: the old ones stay, byte for byte, until all new ones are complete."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from data.io.files import add_path_to_errors, fsync_path, read_json, temporary_path, write_json


@contextmanager
def atomic_write_together(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Write files of one folder that are read together, such as rows and the ids of the rows.

    Nothing changes at the paths before all files are written and synced. Then the old files get another name, and the
    new files their own, the last path last: a reader that opens it never combines it with files of another set. After
    an error all old files are there. After a kill while files are renamed, `restore_together` brings the old ones back.

    Args:
        paths: The files; the last one is the one that readers open first.

    Yields:
        The temporary paths to write to, in the order of `paths`.
    """
    main = paths[-1]
    main.parent.mkdir(parents=True, exist_ok=True)
    restore_together(paths)
    temporaries = [temporary_path(path) for path in paths]
    try:
        with add_path_to_errors(main):
            yield temporaries
            for temporary in temporaries:
                fsync_path(temporary)
        _rename_all(temporaries, paths)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def restore_together(paths: Sequence[Path]) -> None:
    """Undo a replacement of files that was killed while it renamed them; without one, nothing is done."""
    marker = _marker_path(paths)
    if marker.is_file():
        content = read_json(marker)
        replaced = content.get("replaced") if isinstance(content, dict) else None
        for path in paths:
            if _old_path(path).exists():
                os.replace(_old_path(path), path)
            elif isinstance(replaced, list) and path.name not in replaced:
                path.unlink(missing_ok=True)  # it is a file of the interrupted set
        fsync_path(marker.parent)
        marker.unlink()
    for path in paths:  # of a replacement that was killed after it was complete
        _old_path(path).unlink(missing_ok=True)


def _rename_all(temporaries: Sequence[Path], paths: Sequence[Path]) -> None:
    replaced = [path for path in reversed(paths) if os.path.lexists(path)]
    write_json(_marker_path(paths), {"replaced": [path.name for path in replaced]})
    try:
        for path in replaced:
            os.replace(path, _old_path(path))
        for temporary, path in zip(temporaries, paths, strict=True):
            os.replace(temporary, path)
        fsync_path(paths[-1].parent)
    except BaseException:  # Ctrl-C too: the old files must be back before anything else happens
        restore_together(paths)
        raise
    _marker_path(paths).unlink()  # from here on the new files count
    restore_together(paths)


def _marker_path(paths: Sequence[Path]) -> Path:
    return paths[-1].with_name(f".{paths[-1].name}.replacing")


def _old_path(path: Path) -> Path:
    return path.with_name(f".{path.name}.replaced")
