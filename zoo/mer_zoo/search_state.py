"""What a search has found so far, kept in the store, so that a search that was killed goes on where it was.

Every group of settings that has been trained is committed as a small bundle. Which search it belongs to is
told by a digest of everything that decides the scores of a setting: data, folds, seeds, and what is fixed.
The same command on the same data therefore finds what was done, and nothing else does.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore.journal import Change
from mer_featurestore.records import canonical_json
from mer_zoo.planning import Plan
from mer_zoo.runs import SEARCH, SEARCH_PART, Run, dump, find_run, list_runs
from mer_zoo.search_space import Draw, Space, key_of

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

CARRIED = "carried"  # of a member's scores: they were found on a lower rung
SCORES = ("waf", "uar", "accuracy", "macro_f1")
_INCIDENTAL = ("commit", "device", "versions", "params", "settings")


@dataclass(frozen=True, slots=True)
class Outcome:
    """A setting that was trained on every fold and seed.

    Attributes:
        draw: What was drawn.
        epochs: It had at most.
        members: Per fold and seed: `fold`, `seed`; `waf`, `uar`, `accuracy` and `macro_f1` of the validation
            clips at the best epoch; `best_epoch`, and `epochs` that were trained; `carried` where that was
            for an outcome of fewer epochs.
        failed: Why it could not be trained; empty when it was.
    """

    draw: Draw
    epochs: int
    members: tuple[Mapping[str, float], ...] = ()
    failed: str = ""

    def mean(self, score: str = "waf") -> float:
        """Mean over folds and seeds; -1 when it could not be trained."""
        return float(np.mean([m[score] for m in self.members])) if self.members else -1.0

    def std(self, score: str = "waf") -> float:
        """Standard deviation over folds and seeds (n - 1; 0 for one)."""
        return float(np.std([m[score] for m in self.members], ddof=1)) if len(self.members) > 1 else 0.0

    def to_json(self) -> dict[str, Any]:
        """Return it as plain JSON values."""
        return {
            "draw": dict(self.draw),
            "epochs": self.epochs,
            "members": [dict(m) for m in self.members],
            "failed": self.failed,
        }

    @property
    def trained(self) -> int:
        """Epochs that were trained for this outcome, over members."""
        return int(sum(m["epochs"] for m in self.members if CARRIED not in m))

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Outcome":
        """Undo `to_json`."""
        return cls(document["draw"], document["epochs"], tuple(document["members"]), document["failed"])


def digest_of(plan: Plan, space: Space, seeds: int) -> str:
    """Return the digest by which the parts of a search are found again."""
    config = {name: v for name, v in plan.config.to_json().items() if name not in _INCIDENTAL}
    fixed = [dict(space.params), {**space.settings.to_json(), "epochs": 0}, seeds]
    whole = hashlib.sha256(canonical_json([config, fixed]))
    for name, table in plan.data.tables.items():  # a clip may have got another modality since
        whole.update(name.encode() + table.length.numpy().tobytes())
    return whole.hexdigest()


class State:
    """Outcomes by setting and epochs, in memory and in the store.

    Args:
        store: The store.
        plan: Of the search.
        digest: See `digest_of`.
        command: For the journal.
    """

    def __init__(self, store: "Store", plan: Plan, digest: str, command: str = "") -> None:
        self.store, self.plan, self.digest, self.command = store, plan, digest, command
        self._clear_finished()
        self.outcomes = {
            (key_of(outcome.draw), outcome.epochs): outcome
            for part in self._parts()
            for outcome in map(Outcome.from_json, part.json("outcomes.json"))
        }
        self.resumed = len(self.outcomes)
        self.refitted = self._refitted() if self.resumed else None

    def find(self, draw: Draw, epochs: int) -> Outcome | None:
        """Return the outcome of a setting that was trained already."""
        return self.outcomes.get((key_of(draw), epochs))

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Keep outcomes, in one commit."""
        self.outcomes.update({(key_of(o.draw), o.epochs): o for o in outcomes})
        config = self.plan.config
        self.store.runs.add_numbered(
            f"{config.model}.search-part",
            {"outcomes.json": dump([outcome.to_json() for outcome in outcomes])},
            parents=(f"labels/{config.labels}", *config.inputs.parents),
            attrs={"type": SEARCH_PART, "model": config.model, "digest": self.digest},
            command=self.command,
            message=f"search {config.model}: {len(outcomes)} settings of {outcomes[0].epochs} epochs",
        )

    def clear(self) -> None:
        """Take the parts out of later snapshots, in one commit; their outcomes are in the search by now."""
        paths = {part.entry.path for part in self._parts()}

        def build(now: Any) -> Change:
            there = {placed.entry.path for placed in now.all()}
            return Change(remove=sorted(paths & there))

        self.store.write(build, command=self.command, message=f"search {self.plan.config.model}: done")

    def _refitted(self) -> Run | None:
        """Return the run of a search that was killed between refitting its best setting and saying so."""
        told = {bundle.attrs["run"] for bundle in self._of_this(SEARCH)}
        found = [
            name
            for name in list_runs(self.store)
            if self.store.runs[name].attrs.get("search") == self.digest and name not in told
        ]
        return find_run(self.store, found[-1]) if found else None

    def _parts(self) -> "list[Bundle]":
        return list(self._of_this(SEARCH_PART))

    def _of_this(self, kind: str) -> "Iterable[Bundle]":
        bundles = self.store.runs.values()
        return (b for b in bundles if b.attrs.get("type") == kind and b.attrs.get("digest") == self.digest)

    def _clear_finished(self) -> None:
        """Parts of a search that was killed between its last commit and tidying up are of no use."""
        finished = max((bundle.commit for bundle in self._of_this(SEARCH)), default=-1)
        if any(part.commit < finished for part in self._parts()):
            self.clear()
