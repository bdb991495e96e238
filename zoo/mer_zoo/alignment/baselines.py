"""Unaligned projections into the acoustic space, which tell what retrieval owes to alignment."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mer_zoo.alignment.retrieval import Found, mean_of, retrieve

DRAWS = 20
MOST_COMPONENTS = 64
FIT_ON = 4096  # clips
_MOST = 100_000  # clips of all draws together, beyond which there are fewer draws
_FLAT = 1e-9  # share of the largest variance below which a direction does not vary

Matrix = NDArray[np.float32]
Views = tuple[Matrix, Matrix]


def baselines(
    fitted_on: Views, held: Views, classes: Sequence[str | None] | None = None, *, seed: int = 0
) -> Iterator[Found]:
    """Yield what the held-out clips find without alignment.

    Args:
        fitted_on: Standardised visual and acoustic rows `[n, D]` of training clips.
        held: Those of the held-out clips.
        classes: Of the held-out clips, where known.
        seed: Of the random projections.

    Yields:
        `random`, each clip's mean over `DRAWS` random projections (fewer of very many clips);
        `pca`, the principal components of both, whitened and paired by their order; and `as it is` where both
        spaces have the same width.
    """
    visual, acoustic = held
    random = np.random.default_rng(seed)
    shape = (visual.shape[1], acoustic.shape[1])
    count = max(3, min(DRAWS, _MOST // len(visual)))
    draws = (random.standard_normal(shape, dtype=np.float32) for _ in range(count))
    yield mean_of("random", [retrieve("random", visual @ draw, acoustic, classes) for draw in draws])
    first, second = _components(fitted_on, held)
    yield retrieve("pca", first, second, classes)
    if visual.shape[1] == acoustic.shape[1]:
        yield retrieve("as it is", visual, acoustic, classes)


def _components(fitted_on: Views, held: Views) -> list[Matrix]:
    from sklearn.decomposition import PCA

    made = []
    for view, wanted in zip(fitted_on, held, strict=True):
        rows = view[:FIT_ON]
        solver = "covariance_eigh" if len(rows) >= rows.shape[1] else "full"
        pca = PCA(min(MOST_COMPONENTS, *rows.shape), svd_solver=solver).fit(rows.astype(np.float64))
        variance = pca.explained_variance_
        vary = max(1, int((variance > _FLAT * variance[0]).sum()))
        scores = pca.transform(wanted)[:, :vary] / np.sqrt(np.maximum(variance[:vary], _FLAT))
        made.append(scores.astype(np.float32))
    count = min(scores.shape[1] for scores in made)
    return [scores[:, :count] for scores in made]
