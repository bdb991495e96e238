"""Training the settings of a search: grouped by shape, all folds and seeds at once."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from mer_featurestore.records import canonical_json
from mer_zoo.bootstrap import scores_of
from mer_zoo.errors import ZooError
from mer_zoo.fit import fit
from mer_zoo.planning import Plan
from mer_zoo.search_space import Draw, Space, key_of
from mer_zoo.search_state import CARRIED, Outcome, State
from mer_zoo.training import Fitted, Member, Task

ETA = 3  # of successive halving: a third goes on, for three times the epochs
MEMORY = 2 << 30  # bytes that members trained at once may take on a CPU; a quarter of what is free on a GPU
_COPIES = 5  # of a member: weights, gradients, two moments, the best epoch

Progress = Callable[[int, int], None]
"""Called with (epochs of members done, at most in all)."""


def rungs(epochs: int) -> list[int]:
    """Return the epochs of each step of successive halving: a ninth, a third, all of them."""
    return sorted({max(1, epochs // ETA**2), max(1, epochs // ETA), epochs})


@dataclass
class Count:
    """Counts epochs of members for the callback."""

    progress: Progress | None
    total: int = 0
    done: int = 0

    def add(self, epochs: int) -> None:
        """Note epochs that are done."""
        self.done += epochs
        self.tell(0)

    def tell(self, beyond: int) -> None:
        """Call the callback; `beyond` more are done than were noted."""
        if self.progress is not None:
            self.progress(min(self.done + beyond, self.total), self.total)


def most_epochs(settings: int, ladder: Sequence[int]) -> int:
    """Epochs per fold and seed that so many settings take at most."""
    most = 0
    for epochs in ladder:
        most += settings * epochs
        settings = _survivors(settings)
    return most


def _survivors(settings: int) -> int:
    return max(1, math.ceil(settings / ETA))


@dataclass
class Judge:
    """Trains settings on all folds and seeds, rung by rung, and remembers."""

    plan: Plan
    space: Space
    state: State
    seeds: int
    ladder: Sequence[int]
    count: Count

    @cached_property
    def task(self) -> Task:
        """What all members are trained on, on the device."""
        return self.plan.task().to(self.plan.device)

    def expect(self, settings: int) -> None:
        """Say how many settings are still to come, for the callback."""
        each = self.seeds * self.plan.config.fold_count
        self.count.total = self.count.done + most_epochs(settings, self.ladder) * each

    def __call__(self, draws: Sequence[Draw]) -> dict[str, Outcome]:
        """Return the outcome of each draw on the highest rung it has reached."""
        found: dict[str, Outcome] = {}
        for epochs in self.ladder:
            self._train(draws, epochs)
            now = [self.state.outcomes[key_of(draw), epochs] for draw in draws]
            found.update({key_of(outcome.draw): outcome for outcome in now})
            best = sorted((o for o in now if not o.failed), key=lambda o: -o.mean())
            draws = [outcome.draw for outcome in best[: _survivors(len(now))]]
        return found

    def _train(self, draws: Sequence[Draw], epochs: int) -> None:
        new = [draw for draw in draws if self.state.find(draw, epochs) is None]
        each = self.seeds * self.plan.config.fold_count * epochs
        self.count.add((len(draws) - len(new)) * each)
        for group in self._groups(new):
            self.state.add(self._outcomes(group, epochs))
            self.count.add(len(group) * each)

    def _groups(self, draws: Sequence[Draw]) -> list[list[Draw]]:
        """Put settings of equal shape together, as many as fit into memory: they train as one computation."""
        groups: dict[bytes, list[Draw]] = {}
        for draw in draws:
            params, settings = self.space.apply(draw)
            shape = {name: value for name, value in params.items() if name != "dropout"}
            groups.setdefault(canonical_json([shape, settings.batch_size]), []).append(draw)
        found = []
        for group in groups.values():
            most = self._at_once(group[0])
            found += [group[first : first + most] for first in range(0, len(group), most)]
        return found

    def _at_once(self, draw: Draw) -> int:
        try:
            model = self.task.build({**self.plan.config.params, **self.space.apply(draw)[0]})
        except ZooError:
            return 1  # it will fail on its own, and say why
        size = sum(p.numel() * p.element_size() for p in model.parameters())
        device, memory = self.plan.device, MEMORY
        if device.type == "cuda":
            memory = torch.cuda.mem_get_info(device)[0] // 4
        each = self.seeds * self.plan.config.fold_count * size * _COPIES
        return max(1, memory // max(each, 1))

    def _outcomes(self, group: Sequence[Draw], epochs: int) -> list[Outcome]:
        try:
            return self._fit(group, epochs)
        except ZooError as error:
            if len(group) == 1:
                return [Outcome(group[0], epochs, failed=error.message)]
            # One spoils the stack, or makes no model: each on its own, to see which.
            return [outcome for draw in group for outcome in self._outcomes([draw], epochs)]

    def _fit(self, group: Sequence[Draw], epochs: int) -> list[Outcome]:
        members = [member for draw in group for member in self._members(draw, epochs)]
        known = [scores for draw in group for scores in self._stopped(draw, epochs)]
        fitted = iter(
            fit(
                self.task,
                [member for member, scores in zip(members, known, strict=True) if scores is None],
                device=self.plan.device,
                progress=lambda told: self.count.tell(told.done),
            )
        )
        each = self.seeds * self.plan.config.fold_count
        results = [
            self._scores(member, next(fitted), i % each) if scores is None else scores
            for i, (member, scores) in enumerate(zip(members, known, strict=True))
        ]
        return [
            Outcome(draw, epochs, tuple(results[i * each : (i + 1) * each])) for i, draw in enumerate(group)
        ]

    def _stopped(self, draw: Draw, epochs: int) -> list[Mapping[str, float] | None]:
        """Return the scores of members that lost patience on the rung below: more epochs change nothing."""
        below = max((rung for rung in self.ladder if rung < epochs), default=0)
        outcome = self.state.find(draw, below)
        if outcome is None:
            return [None] * (self.seeds * self.plan.config.fold_count)
        return [{**m, CARRIED: 1.0} if m["epochs"] < below else None for m in outcome.members]

    def _members(self, draw: Draw, epochs: int) -> list[Member]:
        params, settings = self.space.apply(draw)
        params = {**self.plan.config.params, **params}
        settings = replace(settings, epochs=epochs)
        return [
            member
            for seed in range(self.plan.config.seed, self.plan.config.seed + self.seeds)
            for member in replace(self.plan, config=replace(self.plan.config, seed=seed)).members(
                params, settings
            )
        ]

    def _scores(self, member: Member, fitted: Fitted, place: int) -> dict[str, float]:
        label = self.plan.chosen.label[member.valid.numpy()]
        classes = fitted.logits.shape[1]
        cells = label * classes + fitted.logits.argmax(1).numpy()
        confusion = np.bincount(cells, minlength=classes**2).reshape(classes, classes)
        scores = {name: float(value) for name, value in scores_of(confusion).items()}
        folds = self.plan.config.fold_count
        return {
            "fold": place % folds,
            "seed": self.plan.config.seed + place // folds,
            **scores,
            "best_epoch": fitted.best_epoch,
            "epochs": len(fitted.history),
        }
