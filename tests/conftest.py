"""Fixtures the whole suite uses."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real media and weights that may lie beside the checkout; skip without it."""
    if not (SHARED / "data").is_dir():
        pytest.skip("needs the shared media and weights (../shared), which are not in the repository")
    return SHARED
