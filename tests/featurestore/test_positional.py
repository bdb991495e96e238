"""Reading at computed offsets: how a batch is divided among threads."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mer_featurestore import Store, positional
from mer_featurestore.positional import SHARE, Piece, shares
from support.features import make_spec, write

LENGTHS = st.lists(st.integers(0, 3 * SHARE), max_size=12)


@given(LENGTHS, st.integers(1, 8))
def test_shares_are_the_pieces(lengths: list[int], most: int) -> None:
    """Shares hold every byte once, in order, in up to `most` parts that differ by less than a share."""
    file_of: dict[str, Any] = {f"file{i}": object() for i in range(3)}
    ends = np.cumsum([0, *lengths]).tolist()
    pieces = [
        Piece(f"file{i % 3}", 7 * i, start, n)
        for i, (start, n) in enumerate(zip(ends, lengths, strict=False))
    ]
    opened = [(file_of[piece.file], piece) for piece in pieces]
    cut = shares(opened, most)
    assert all(file is file_of[piece.file] for share in cut for file, piece in share)
    found = [[piece for _, piece in share] for share in cut]
    assert len(found) <= most
    flat = [piece for share in found for piece in share if piece.length]
    place = 0
    for piece in flat:
        whole = next(p for p in pieces if p.target <= piece.target < p.target + p.length)
        assert piece.file == whole.file
        assert piece.offset - whole.offset == piece.target - whole.target
        assert piece.target == place
        place += piece.length
    assert place == sum(lengths)
    sizes = [sum(piece.length for piece in share) for share in found]
    assert len(found) == 1 or min(sizes[:-1]) >= SHARE
    assert max(sizes) - min(sizes) < max(SHARE, most) or len(found) == 1


@pytest.mark.parametrize("threads", [1, 2, 4])
def test_threads_fill_one_buffer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    """Whatever divides a batch, the same rows come to the same places."""
    monkeypatch.setattr(positional, "SHARE", 1 << 10)
    monkeypatch.setattr(positional, "_cores", lambda: threads)
    spec = make_spec()
    random = np.random.default_rng(0)
    clips = {f"k{i:03d}": random.normal(size=(i % 40, 6)).astype(np.float16) for i in range(200)}
    store = Store.create(tmp_path / "s")
    write(store, spec, clips)
    space, keys = store.features["x-FRA"], list(clips)[::-1]
    np.testing.assert_array_equal(space.read(keys).data, np.concatenate([clips[k] for k in keys]))
    for batch, packed in space.scan(50):
        for key, rows in zip(batch, packed, strict=True):
            np.testing.assert_array_equal(rows, clips[key])
