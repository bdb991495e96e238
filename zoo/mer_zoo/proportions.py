"""How sure a share is that was counted on few clips."""

from math import sqrt

from mer_zoo.bootstrap import Interval

_Z = 1.959963984540054  # 97.5 % quantile of the normal distribution


def wilson(hits: int, n: int) -> Interval:
    """Return the 95 % interval of a share counted as `hits` of `n` (Wilson 1927).

    Unlike a bootstrap it does not collapse where all of few clips are right; of no clip it is 0 to 1.
    """
    if not n:
        return Interval(0.0, 1.0)
    share, z2 = hits / n, _Z**2 / n
    centre = (share + z2 / 2) / (1 + z2)
    reach = _Z * sqrt(share * (1 - share) / n + z2 / (4 * n)) / (1 + z2)
    return Interval(max(0.0, centre - reach), min(1.0, centre + reach))
