"""The conformance kit: subclass `ExtractorTests` in a pytest module and say which card to test.

    class TestMine(ExtractorTests):
        card = my_plugin.CARD
        options = Options(extra={"size": "small"})

pytest then checks what the pipeline and the store rely on. Nothing is mocked: small real media files are
made, decoded and encoded.
"""

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from mer_featurestore.records import LEVEL_SUFFIX, MODALITIES, Clip, canonical_json
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.host import make_extractor
from mer_plugins.samples import empty_clips, sample_clips, shortest_clip

Rows = NDArray[np.float32]


class ExtractorTests:
    """What every extractor must do.

    Attributes:
        card: The card under test.
        options: What to tell it, e.g. `model=` a small checkpoint.
        bitwise: Whether a clip's features are the same to the last bit in every batch (on one machine);
            otherwise within 1e-4 of the largest value.
    """

    card: ClassVar[ExtractorCard]
    options: ClassVar[Options] = Options()
    bitwise: ClassVar[bool] = True

    @classmethod
    def clips(cls, folder: Path) -> list[Clip]:
        """Return clips of different lengths that the extractor must be able to use; override if need be."""
        return sample_clips(folder, cls.card.modality)

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return a folder for media."""
        return tmp_path_factory.mktemp("media")

    @pytest.fixture(scope="class")
    @classmethod
    def extractor(cls) -> Any:
        """Return the extractor, loaded."""
        extractor = cls.build()
        extractor.load()
        yield extractor
        extractor.close()

    @pytest.fixture(scope="class")
    @classmethod
    def inputs(cls, extractor: Extractor[Any], folder: Path) -> list[Any]:
        """Return the sample clips, prepared."""
        return [extractor.prepare(clip) for clip in cls.clips(folder)]

    @pytest.fixture(scope="class")
    @classmethod
    def alone(cls, extractor: Extractor[Any], inputs: list[Any]) -> list[Rows]:
        """Return each input's rows, encoded by itself."""
        return [extractor.encode([value])[0] for value in inputs]

    @classmethod
    def build(cls) -> Extractor[Any]:
        """Make the extractor as the pipeline does."""
        return make_extractor(cls.card, cls.options)

    def test_card(self) -> None:
        """A card names the extractor, what it reads, what it gives and what its options are."""
        assert self.card.name
        assert self.card.summary
        assert self.card.modality in MODALITIES
        assert self.card.levels
        assert set(self.card.levels) <= set(LEVEL_SUFFIX)
        assert all(default and text for default, text in self.card.options.values())

    def test_made_by_needs_no_weights(self) -> None:
        """What decides the values is known before `load`, is plain JSON, and says something."""
        assert canonical_json(dict(self.build().made_by())) != b"{}"

    def test_made_by_is_stable(self, extractor: Extractor[Any]) -> None:
        """Two extractors made alike have the same fingerprint, before and after loading."""
        assert canonical_json(dict(self.build().made_by())) == canonical_json(dict(extractor.made_by()))

    def test_shape_is_declared_before_loading(self, extractor: Extractor[Any]) -> None:
        """The shapes of rows do not change with loading."""
        fresh = self.build()
        assert tuple(fresh.row_shape) == tuple(extractor.row_shape)
        assert tuple(fresh.utt_shape) == tuple(extractor.utt_shape)

    def test_rows(self, extractor: Extractor[Any], alone: list[Rows]) -> None:
        """Every clip gives at least one row: float32, finite, of the declared shape."""
        for rows in alone:
            assert isinstance(rows, np.ndarray)
            assert rows.dtype == np.float32
            assert rows.shape[1:] == tuple(extractor.row_shape)
            assert len(rows) >= 1
            assert np.isfinite(rows).all()
            kept = extractor.frame_rows(rows)
            assert kept.dtype == np.float32
            assert kept.shape == (len(rows), *extractor.frame_shape)

    def test_pool(self, extractor: Extractor[Any], alone: list[Rows]) -> None:
        """Pooling gives one finite float32 row of the declared shape."""
        for rows in alone:
            pooled = extractor.pool(rows)
            assert pooled.dtype == np.float32
            assert pooled.shape == tuple(extractor.utt_shape)
            assert np.isfinite(pooled).all()

    def test_clips_differ(self, extractor: Extractor[Any], alone: list[Rows]) -> None:
        """Different clips have different features."""
        pooled = [extractor.pool(rows) for rows in alone]
        assert all((a != b).any() for i, a in enumerate(pooled) for b in pooled[:i])

    def test_deterministic(self, extractor: Extractor[Any], inputs: list[Any], alone: list[Rows]) -> None:
        """Encoding again gives the same bits, and does not change its input."""
        again = [extractor.encode([value])[0] for value in inputs]
        self.same(again, alone, exact=True)

    def test_batch_companions(self, extractor: Extractor[Any], inputs: list[Any], alone: list[Rows]) -> None:
        """A clip's features depend neither on what else is in its batch nor on its place in it."""
        self.same(extractor.encode(inputs), alone, exact=self.bitwise)
        self.same(extractor.encode(inputs[::-1])[::-1], alone, exact=self.bitwise)
        self.same(extractor.encode([inputs[0]] * 3), [alone[0]] * 3, exact=self.bitwise)

    def test_prepare_in_threads(self, extractor: Extractor[Any], folder: Path, alone: list[Rows]) -> None:
        """Clips prepared side by side in threads are the same as one after the other."""
        clips = self.clips(folder) * 3
        with ThreadPoolExecutor(4) as pool:
            inputs = list(pool.map(extractor.prepare, clips))
        self.same([extractor.encode([value])[0] for value in inputs], alone * 3, exact=True)

    def test_costs(self, extractor: Extractor[Any], inputs: list[Any]) -> None:
        """Costs are positive and finite; seconds are positive or not known."""
        for value in inputs:
            assert 0 < extractor.cost(value) < math.inf
            assert not extractor.seconds(value) < 0

    def test_shortest(self, extractor: Extractor[Any], folder: Path) -> None:
        """One sample, frame or letter gives finite rows, or is refused with a reason."""
        try:
            rows = extractor.encode([extractor.prepare(shortest_clip(folder, self.card.modality))])[0]
        except ClipError:
            return
        assert np.isfinite(rows).all()
        assert rows.shape[1:] == tuple(extractor.row_shape)

    def test_empty(self, extractor: Extractor[Any], folder: Path) -> None:
        """A clip with nothing in it is refused with a reason, not by a crash."""
        for clip in empty_clips(folder, self.card.modality):
            with pytest.raises(ClipError, match=r"\w+"):
                extractor.encode([extractor.prepare(clip)])

    def test_close_and_load_again(self, folder: Path, alone: list[Rows]) -> None:
        """After `close` and `load` the features are the same."""
        extractor = self.build()
        for _ in range(2):
            extractor.load()
            rows = extractor.encode([extractor.prepare(self.clips(folder)[0])])
            extractor.close()
            self.same(rows, alone[:1], exact=True)

    @staticmethod
    def same(given: Sequence[Rows], expected: Sequence[Rows], *, exact: bool) -> None:
        """Assert that rows are equal, or equal to 1e-4 of the largest value."""
        assert len(given) == len(expected)
        for a, b in zip(given, expected, strict=True):
            assert a.shape == b.shape
            if exact:
                assert np.array_equal(a, b)
            else:
                assert np.abs(a - b).max(initial=0) <= 1e-4 * np.abs(b).max(initial=1e-6)
