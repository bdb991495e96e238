"""Counts in words."""

import pytest

from mer_featurestore.wording import plural


@pytest.mark.parametrize(
    ("count", "noun", "said"),
    [
        (0, "clip", "0 clips"),
        (1, "clip", "1 clip"),
        (2, "clip", "2 clips"),
        (1, "class", "1 class"),
        (2, "class", "2 classes"),
        (12, "labelled clip", "12 labelled clips"),
    ],
)
def test_plural(count: int, noun: str, said: str) -> None:
    """One of a thing is singular, any other number plural."""
    assert plural(count, noun) == said
