"""Print the requirements of pyproject.toml with some extras, so that an image installs them before the code.

Usage: python deploy/list_requirements.py VARIANT EXTRAS, such as `cpu demo,photos,serve`.
"""

import sys
import tomllib
from pathlib import Path


def main(variant: str, extras: str) -> None:
    """Print one requirement per line; the variant is the extra `cpu` or `gpu`."""
    project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
    if variant not in ("cpu", "gpu"):
        sys.exit(f"VARIANT is {variant!r}. It must be cpu or gpu.")
    optional = project["optional-dependencies"]
    names = [variant, *filter(None, extras.split(","))]
    if unknown := sorted(set(names) - set(optional)):
        sys.exit(f"pyproject.toml has no extra {', '.join(unknown)}. The extras are {', '.join(optional)}.")
    print(*project["dependencies"], *(line for name in names for line in optional[name]), sep="\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
