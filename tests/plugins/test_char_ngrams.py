import numpy as np
import pytest
from sklearn.feature_extraction.text import HashingVectorizer

from mer_featurestore import Clip
from mer_plugins.contract import Options
from mer_plugins.errors import ClipError
from mer_plugins.text.char_ngrams import CharNgrams

TEXT = "I am so happy   today!\tSo happy… 我很高兴 Straße"


def extract(text: str, **extra: str) -> tuple[np.ndarray, np.ndarray]:
    """Return an utterance's words and its pooled row."""
    extractor = CharNgrams(Options(extra=extra))
    extractor.load()
    rows = extractor.encode([extractor.prepare(Clip(key="a", text=text))])[0]
    return rows, extractor.pool(rows)


def test_utterance_is_scikit_learns() -> None:
    """Words' counts add up to what scikit-learn hashes from the whole text, scaled to length 1."""
    rows, pooled = extract(TEXT.replace("…", "..."), dims="512", ngrams="2-3")
    theirs = HashingVectorizer(analyzer="char_wb", ngram_range=(2, 3), n_features=512, norm="l2")
    expected = theirs.transform([TEXT.replace("…", "...")]).toarray()[0]
    assert np.allclose(pooled, expected, atol=1e-6)
    assert np.linalg.norm(pooled) == pytest.approx(1, abs=1e-6)
    assert rows.shape == (9, 512)


def test_case_and_form_do_not_matter() -> None:
    """Full-width letters, ligatures and capitals are the same words."""
    assert np.array_equal(extract("HAPPY ﬁne")[1], extract("happy fine")[1])


@pytest.mark.parametrize("text", ["", "  \n", None])
def test_empty_transcript(text: str | None) -> None:
    """An empty transcript is refused with the reason."""
    with pytest.raises(ClipError, match="the transcript is empty"):
        CharNgrams(Options()).prepare(Clip(key="a", text=text))
