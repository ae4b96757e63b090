"""What happened to an index, a line of JSON each: for people. Nothing is decided by it, so a clock may go back."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

FILE = "events.jsonl"
log = logging.getLogger(__name__)


def record_event(root: Path, event: str, version: int | None = None, **facts: Any) -> None:
    """Add a line. What cannot be written down has happened all the same: it is logged, and no error."""
    entry = {"utc": datetime.now(UTC).isoformat(timespec="seconds"), "event": event, "version": version, **facts}
    try:
        with open(Path(root) / FILE, "ab") as file:
            # One write, begun on a new line: the line before may be half of one, of a process that was killed.
            file.write(("\n" + json.dumps(entry, ensure_ascii=False)).encode())
    except OSError as error:
        log.warning("%s of version %s is not in %s: %s", event, version, Path(root) / FILE, error)


def read_events(root: Path) -> list[dict[str, Any]]:
    """What was recorded, oldest first; half lines are passed over."""
    path, found = Path(root) / FILE, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            entry = json.loads(line)
        except ValueError:
            continue
        if isinstance(entry, dict):
            found.append(entry)
    return found
