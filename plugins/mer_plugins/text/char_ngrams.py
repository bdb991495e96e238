"""`char-ngrams`: hashed counts of the character n-grams of a transcript; no weights, any language.

At frame level there is a row of counts per word. Since n-grams never cross a word's edge, the words' counts
add up to the utterance's exactly; its one row is that sum, scaled to length 1.
"""

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.records import Clip
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import ClipError
from mer_plugins.settings import Settings

OPTIONS = {
    "dims": ("1024", "buckets n-grams are hashed into"),
    "ngrams": ("1-4", "lengths of n-grams in characters; a word's edges count as one"),
}


class CharNgrams(Extractor[list[str]]):
    """Rows of `dims` signed, hashed counts (scikit-learn's HashingVectorizer, MurmurHash3)."""

    pooling = "sum-l2"
    batch_cost = 256.0

    def __init__(self, options: Options) -> None:
        say = Settings(OPTIONS, options)
        self.dims = say.integer("dims", 16, 1 << 20)
        self.ngrams = say.span("ngrams", 1, 16)
        self.row_shape = (self.dims,)
        self._vectorizer: Any = None

    def made_by(self) -> Mapping[str, Any]:
        """Return the settings."""
        return {
            "dims": self.dims,
            "ngrams": list(self.ngrams),
            "analyzer": "char_wb",
            "text": "NFKC, lower case",
        }

    def load(self) -> None:
        """Make the hasher."""
        from sklearn.feature_extraction.text import HashingVectorizer

        self._vectorizer = HashingVectorizer(
            analyzer="char_wb",
            ngram_range=self.ngrams,
            n_features=self.dims,
            norm=None,
            lowercase=True,
            dtype=np.float32,
        )

    def prepare(self, clip: Clip) -> list[str]:
        """Return the transcript's words."""
        words = unicodedata.normalize("NFKC", clip.text or "").split()
        if not words:
            raise ClipError("the transcript is empty")
        return words

    def encode(self, batch: Sequence[list[str]]) -> list[NDArray[np.float32]]:
        """Return a row of counts per word, `[T_i, dims]`."""
        counts = self._vectorizer.transform([word for words in batch for word in words]).toarray()
        ends = np.cumsum([len(words) for words in batch])
        return [np.asarray(part, dtype=np.float32) for part in np.split(counts, ends[:-1])]

    def pool(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Add the words up and normalise."""
        return normalised(rows.sum(axis=0, dtype=np.float32))

    def close(self) -> None:
        """Let go of the hasher."""
        self._vectorizer = None


def normalised(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Scale rows `[…, D]` to length 1; zeros stay zeros."""
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(length > 0, length, 1), dtype=np.float32)


CARDS = (
    ExtractorCard(
        name="char-ngrams",
        modality="text",
        levels=("utt", "frame"),
        summary="hashed character n-grams, any language; no weights",
        build=CharNgrams,
        options=OPTIONS,
    ),
)
