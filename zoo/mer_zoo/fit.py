"""`fit`: the one way to train members, stacked where the model allows it and in a loop where it does not."""

from collections.abc import Sequence
from functools import partial

import torch

from mer_zoo.loop import fit_one
from mer_zoo.stacked import fit_stack, stacks
from mer_zoo.training import Fitted, Member, ProgressCallback, Task, Tracker


def fit(
    task: Task,
    members: Sequence[Member],
    *,
    device: torch.device | str = "cpu",
    stack: bool = True,
    progress: ProgressCallback | None = None,
) -> list[Fitted]:
    """Train members.

    On a CPU, with single vectors, a member's result depends on its own seed and settings only, to float
    tolerance, whoever trains beside it and whether or not they are stacked. With sequences, and on a GPU,
    dropout noise is drawn for the stack as a whole, and a result depends on the members it was trained with;
    it is still the same each time.

    Args:
        task: What they are trained on.
        members: All of them.
        device: Where to train.
        stack: Whether members of equal shape train as one computation, where the model allows it.
        progress: Called after each epoch.

    Raises:
        Diverged: A loss became infinite or NaN.
    """
    placed, track = task.to(device), Tracker(members, progress)
    fitted: list[Fitted] = [Fitted() for _ in members]
    for group in stacks(placed, members) if stack else [[i] for i in range(len(members))]:
        if len(group) > 1:
            trained = fit_stack(placed, [members[i] for i in group], [partial(track, i) for i in group])
        else:
            trained = [fit_one(placed, members[group[0]], partial(track, group[0]))]
        for i, result in zip(group, trained, strict=True):
            fitted[i] = result
    return fitted
