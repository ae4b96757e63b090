"""The model card of a trained model, and the records of a model package; imports no torch."""

from tern.card.model_card import MODEL_CARD, NETWORK_VERSION, ModelCard, read_model_card, write_model_card
from tern.card.package import ModelPackage, is_package, read_package, verify_package
from tern.card.package_records import (
    CALIBRATION,
    DETECTOR,
    EXTRACTORS,
    METRICS,
    PACKAGE_CONFIG,
    PACKAGE_FILES,
    README,
    TEXT_ENCODER,
    WEIGHTS,
    PackageConfig,
    PackageExtractor,
    PackageExtractors,
    PackageFile,
    PackageOrigin,
    PackagePath,
)

__all__ = [
    "CALIBRATION",
    "DETECTOR",
    "EXTRACTORS",
    "METRICS",
    "MODEL_CARD",
    "NETWORK_VERSION",
    "PACKAGE_CONFIG",
    "PACKAGE_FILES",
    "README",
    "TEXT_ENCODER",
    "WEIGHTS",
    "ModelCard",
    "ModelPackage",
    "PackageConfig",
    "PackageExtractor",
    "PackageExtractors",
    "PackageFile",
    "PackageOrigin",
    "PackagePath",
    "is_package",
    "read_model_card",
    "read_package",
    "verify_package",
    "write_model_card",
]
