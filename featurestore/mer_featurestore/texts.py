"""Several string columns of one table in one pair of arrays, because every array of a group costs a file."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore import strings
from mer_featurestore.groups import Group

BYTES, OFFSETS, COLUMNS = "text_bytes", "text_offsets", "text_columns"


def pack(columns: Mapping[str, Sequence[str]]) -> tuple[dict[str, NDArray[Any]], dict[str, list[str]]]:
    """Pack columns of n strings each, one column after another.

    Returns:
        Arrays `text_bytes` uint8 and `text_offsets` int64 `[columns * n + 1]`, and the attribute
        `text_columns` with the names: row r of column c is string `c * n + r`.
    """
    blob, offsets = strings.encode([text for column in columns.values() for text in column])
    return {BYTES: blob, OFFSETS: offsets}, {COLUMNS: list(columns)}


def unpack(group: Group) -> dict[str, list[str]]:
    """Return the columns that `pack` packed."""
    names: list[str] = group.attrs[COLUMNS]
    blob, offsets = group.read(BYTES), group.read(OFFSETS)
    n = (len(offsets) - 1) // len(names)
    bounds = np.arange(len(names)) * n
    return {
        # Each by itself: a column of plain ASCII decodes much faster than one that is not.
        name: strings.decode(blob, offsets[start : start + n + 1])
        for name, start in zip(names, bounds.tolist(), strict=True)
    }
