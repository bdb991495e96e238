"""docs/store-format.md says what is: its examples run as they stand."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mer_featurestore.fragments import columns
from support.features import fill, make_spec

PAGE = Path(__file__).parents[2] / "docs" / "store-format.md"
EXAMPLES = re.findall(
    r"^```python\n(import .*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
)


@pytest.mark.parametrize(
    ("backend", "example"), list(zip(("zarr", "hdf5"), EXAMPLES, strict=True)), ids=("zarr", "hdf5")
)
def test_five_lines_read_a_fragment(
    tmp_path: Path, backend: str, example: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any of our code, the page's five lines give every clip of a fragment under its key."""
    spec = make_spec("prosody-FRA")
    _, clips = fill(tmp_path / "s", spec, parts=1, store_backend=backend)
    assert "mer_" not in example
    assert len(example.strip().splitlines()) == 5
    monkeypatch.chdir(tmp_path / "s")
    names: dict[str, Any] = {}
    exec(example, names)
    assert list(names["features"]) == list(clips)
    for key, array in clips.items():
        np.testing.assert_array_equal(names["features"][key], array)
    for opened in (names.get("file"),):
        if opened is not None:
            opened.close()


def test_the_page_lists_the_arrays() -> None:
    """Every array of a fragment is in the page's table."""
    listed = set(re.findall(r"^\| `(\w+)` \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE))
    assert listed == {"data", *columns(["a"], np.array([1]))}
