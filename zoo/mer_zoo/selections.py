"""Ways of selecting: which of the voted labels are sure enough to train on, and why."""

from collections.abc import Mapping

import numpy as np

from mer_zoo.ballots import ABSTAINS, Ballot, Select, Selection, Verdict
from mer_zoo.errors import ZooError


def threshold(ballot: Ballot, verdict: Verdict, *, threshold: float = 0.9) -> Selection:  # noqa: ARG001 - the one signature
    """Keep what is surer than one threshold for all classes (p > 0.9 in Shi and Gao 2024).

    Raises:
        ZooError: A threshold outside 0 to 1.
    """
    if not 0 <= threshold <= 1:
        raise ZooError(f"threshold is {threshold:g}", "use a probability between 0 and 1")
    voted = verdict.label != ABSTAINS
    kept = voted & (verdict.confidence > threshold)
    reason = np.where(kept, f"confidence above {threshold:g}", f"confidence {threshold:g} or lower")
    return Selection(kept, tuple(np.where(voted, reason, "no member has features of it").tolist()))


SELECTIONS: Mapping[str, Select] = {
    "threshold": Select(threshold, "one confidence threshold for all classes", {"threshold": 0.9}),
}
