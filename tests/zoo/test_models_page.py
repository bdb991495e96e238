"""The model written in docs/models.md is a model of this zoo."""

import re
from pathlib import Path
from typing import Any

import pytest

from mer_zoo.testing import ModelTests

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


@pytest.fixture(scope="module")
def written() -> dict[str, Any]:
    """Return what the page's Python defines."""
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        exec(block, names)
    return names


@pytest.mark.parametrize("check", [name for name in dir(ModelTests) if name.startswith("test_")])
def test_the_written_model_conforms(written: dict[str, Any], check: str) -> None:
    """The page's model passes the page's conformance test."""
    getattr(written["TestGated"](), check)()
