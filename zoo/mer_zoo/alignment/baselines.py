"""Unaligned projections into the acoustic space, which tell what retrieval owes to alignment."""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from mer_zoo.alignment.retrieval import Found, mean_of, retrieve

DRAWS = 20
MOST_COMPONENTS = 64
_FIT_ON = 4096  # clips

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
        `random`, each clip's mean over `DRAWS` random projections of the visual rows into the acoustic space;
        `pca`, the principal components of both, whitened and paired by their order; and `as it is` where both
        spaces have the same width.
    """
    visual, acoustic = held
    random = np.random.default_rng(seed)
    shape = (visual.shape[1], acoustic.shape[1])
    draws = (random.standard_normal(shape, dtype=np.float32) for _ in range(DRAWS))
    yield mean_of("random", [retrieve("random", visual @ draw, acoustic, classes) for draw in draws])
    first, second = _components(fitted_on, held)
    yield retrieve("pca", first, second, classes)
    if visual.shape[1] == acoustic.shape[1]:
        yield retrieve("as it is", visual, acoustic, classes)


def _components(fitted_on: Views, held: Views) -> list[Matrix]:
    from sklearn.decomposition import PCA

    rows = [view[:_FIT_ON] for view in fitted_on]
    count = min(MOST_COMPONENTS, len(rows[0]) - 1, *(_directions(view) for view in rows))
    made = []
    for view, wanted in zip(rows, held, strict=True):
        pca = PCA(max(1, count), whiten=True, svd_solver="full").fit(view)
        made.append(pca.transform(wanted).astype(np.float32))
    return made


def _directions(view: Matrix) -> int:
    return int(np.linalg.matrix_rank(view - view.mean(axis=0)))
