"""The event log of an index, one JSON object per line. It is for people: no decision depends on it or on its clock."""

import json
import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from index.versions.verdict import GateVerdict

FILE = "events.jsonl"
log = logging.getLogger(__name__)


class Event(BaseModel):
    """One line of the log. Fields after `version` are written only for the events that have them."""

    model_config = ConfigDict(frozen=True)

    utc: str = ""
    event: str = ""
    """published, rejected, republished, rolled_back, tagged, untagged or garbage_collected"""
    version: int | None = None
    gate: GateVerdict | None = None
    tag: str | None = None
    removed: list[int] | None = None
    """versions that garbage collection deleted"""
    objects: int | None = None
    """number of objects that garbage collection deleted"""
    bytes: int | None = None
    """size of these objects"""


def record_event(root: Path, event: str, version: int | None = None, **facts: Any) -> None:
    """Append an event to the event log of an index.

    A write error is only logged, because the event itself has happened.

    Args:
        root: Folder of the index.
        event: Name of the event, such as "published".
        version: Number of the version that it is about; None without one.
        **facts: Further fields of `Event`.
    """
    utc = datetime.now(UTC).isoformat(timespec="seconds")
    entry = Event(utc=utc, event=event, version=version, **facts).model_dump(mode="json", exclude_unset=True)
    try:
        with open(Path(root) / FILE, "ab") as file:
            # One write that starts a new line: a killed process may have left half of the last one.
            file.write(("\n" + json.dumps(entry, ensure_ascii=False)).encode())
    except OSError as error:
        log.warning("The event `%s` of version %s was not written to %s: %s", event, version, Path(root) / FILE, error)


def find_publication_time(root: Path, version: int) -> str | None:
    """Find when a version was published, as ISO 8601 in UTC; None if the log does not say it."""
    times = (event.utc for event in read_events(root) if event.event == "published" and event.version == version)
    return next(times, None) or None


def read_events(root: Path) -> list[Event]:
    """Read the events, oldest first; incomplete lines are ignored."""
    path, events = Path(root) / FILE, []
    for line in path.read_bytes().split(b"\n") if path.is_file() else ():
        try:
            events.append(Event.model_validate(json.loads(line)))
        except (ValueError, ValidationError, RecursionError):
            continue
    return events
