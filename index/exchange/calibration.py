"""Calibrations of an export: in the footer of the metadata of each collection, as JSON."""

from pathlib import Path

import pyarrow.parquet as pq
from pydantic import ValidationError

from index.versions.calibration import ScoreCalibration

CALIBRATION = "calibration"  # key in the footer of KIND.parquet: the calibration of the scores, if there is one


def read_calibration(table: Path) -> ScoreCalibration | None:
    """Read the calibration of an exported collection; None if the export has none.

    Args:
        table: KIND.parquet.

    Raises:
        ValueError: It is no calibration.
    """
    content = (pq.read_metadata(table).metadata or {}).get(CALIBRATION.encode())
    if content is None:
        return None
    try:
        return ScoreCalibration.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(map(str, first["loc"])) or "JSON"
        raise ValueError(
            f"The calibration in the footer of {table} is not valid ({key}: {first['msg']}). Export again."
        ) from None
