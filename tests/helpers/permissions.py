"""Run a function without the rights of root, who may read every file."""

import json
import os
from collections.abc import Callable
from typing import Any


def run_as_nobody(function: Callable[[], Any]) -> Any:
    """What a function returns, as JSON, in a child that has no rights of root's."""
    reading, writing = os.pipe()
    if (child := os.fork()) == 0:
        try:
            if os.getuid() == 0:
                os.setuid(65534)
            os.write(writing, json.dumps(function()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        result = json.load(file)
    os.waitpid(child, 0)
    return result
