"""The searchers of an index by the number or the tag of a version."""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from fastapi import HTTPException

from index.search import HotReloader
from index.versions import manifest_path, resolve_version
from pipeline.search.index_searcher import IndexSearcher

log = logging.getLogger(__name__)


class VersionedSearchers:
    """Lends the searcher of a version.

    Args:
        reloader: Provides the searcher of the published version, or of one by its number.
    """

    def __init__(self, reloader: HotReloader[IndexSearcher]) -> None:
        self._reloader = reloader

    @contextmanager
    def borrow(self, version: str) -> Iterator[IndexSearcher]:
        """Lend the searcher of a version.

        Args:
            version: Number or tag; empty for the published version.

        Raises:
            HTTPException: 404; the version does not exist, or did not pass its gate. 503; it cannot be opened.
        """
        with ExitStack() as stack:
            try:
                number = resolve_version(self._reloader.root, version) if version else None
                searcher = stack.enter_context(self._reloader.borrow(number))
            except (ValueError, FileNotFoundError) as error:
                # The text of the error contains paths of this machine, so no answer repeats it.
                if self._is_unknown(version):
                    raise HTTPException(
                        404, f"The index has no version {version!r}. GET /api/v1/versions lists them."
                    ) from error
                log.error("Version %r cannot be opened: %s", version, error)
                raise HTTPException(
                    503, f"Version {version!r} cannot be opened now. The log of the service has the reason."
                ) from error
            if searcher.index.manifest.is_rejected:
                raise HTTPException(
                    404, f"Version {version!r} did not pass its gate. GET /api/v1/versions lists others."
                )
            yield searcher

    def _is_unknown(self, version: str) -> bool:
        try:
            number = resolve_version(self._reloader.root, version)
        except ValueError as error:
            return error.__cause__ is None  # else, the file of a tag cannot be read
        return not manifest_path(self._reloader.root, number).is_file()
