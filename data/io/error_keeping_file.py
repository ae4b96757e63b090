"""A file for libraries that cannot stop in the middle of a write, such as HDF5."""

import io
from pathlib import Path
from typing import Any


class ErrorKeepingFile(io.FileIO):
    """A new file whose write errors are kept and raised when it is closed.

    After a failed write HDF5 can neither go on nor close its file: it raises RuntimeError, keeps the handle and crashes
    when the process ends. Here a failed write returns as if it had succeeded; the caller stops when `error` is set.

    Args:
        path: File to create.
    """

    def __init__(self, path: Path):
        super().__init__(path, "w+")
        self.error: OSError | None = None
        """First error of writing, if there was one."""

    def write(self, data: Any) -> int:
        """Write all bytes, or keep the error."""
        view = memoryview(data).cast("B")
        done = 0
        while self.error is None and done < len(view):
            try:
                done += super().write(view[done:]) or 0  # a write may be short where the disk ends
            except OSError as error:
                self.error = error
        return len(view)

    def truncate(self, size: int | None = None) -> int:
        """Change the size of the file, or keep the error."""
        try:
            return super().truncate(size)
        except OSError as error:
            self.error = self.error or error
            return size or 0

    def __exit__(self, *exception: Any) -> None:
        super().__exit__(*exception)
        if self.error is not None:
            raise self.error
