"""Entry of `data`."""

from dataclasses import dataclass, field
from typing import Any


@dataclass
class _Entry:
    """One image as the annotations name it, before any check."""

    id: Any
    relative: Any  # path below the folder of images
    split: Any
    texts: list[Any] = field(default_factory=list)
    problem: str = ""  # why the record itself cannot be read
