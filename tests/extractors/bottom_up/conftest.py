"""A bottom-up model of the published layers with fewer channels, which a processor computes in a tenth of the time."""

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="package", autouse=True)
def narrow() -> Iterator[None]:
    """Give each model that is built or loaded here a quarter of the published channels."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("extractors.bottom_up.model.WIDTH", 16)
        yield
