"""Searching a model's settings: draw, train every distinct setting once on all folds, refit the best.

`trials=50, folds=5` is the field's recipe: 50 random draws, 5 folds each. Draws that are the same are trained
once; settings of equal shape train as one computation.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_zoo.contract import ModelCard
from mer_zoo.errors import ZooError
from mer_zoo.judging import Count, Judge, Progress, rungs
from mer_zoo.planning import Plan, make_plan
from mer_zoo.registry import find_model
from mer_zoo.runs import SEARCH, dump
from mer_zoo.search_space import ROUND, Sampler, Space, key_of, make_space
from mer_zoo.search_state import SCORES, Outcome, State, digest_of
from mer_zoo.settings import Settings, check_seed
from mer_zoo.train import RunResult, carry_out, check_name_is_free, result_of

if TYPE_CHECKING:
    from mer_featurestore import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """A finished search, as it is told to a person.

    Attributes:
        name: Of the record in the store.
        run: The best setting, refitted.
        best: Its outcome in the search.
        outcomes: One per distinct setting that was drawn, best first; pruned ones behind, then failed ones.
        drawn: Trials.
        size: Distinct settings there are.
        names: What was drawn.
        epochs: Trained in all, over members.
        resumed: Outcomes that an earlier, unfinished search had left.
        seconds: Wall time.
        notices: What a person should know.
    """

    name: str
    run: RunResult
    best: Outcome
    outcomes: tuple[Outcome, ...]
    drawn: int
    size: int
    names: tuple[str, ...]
    epochs: int
    resumed: int
    seconds: float
    notices: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Return the result as plain JSON values."""
        return {
            "search": self.name,
            "run": self.run.to_json(),
            **table_of(self.outcomes),
            "drawn": self.drawn,
            "size": self.size,
            "names": list(self.names),
            "epochs": self.epochs,
            "resumed": self.resumed,
            "seconds": round(self.seconds, 2),
            "notices": list(self.notices),
        }


def search(
    store: "Store",
    card: ModelCard | str,
    *,
    trials: int = 50,
    sampler: str = "random",
    prune: bool = False,
    seeds: int = 1,
    draw: Mapping[str, Sequence[Any]] | None = None,
    fix: Mapping[str, Any] | None = None,
    seed: int = 0,
    settings: Settings | None = None,
    name: str | None = None,
    tensorboard: Path | None = None,
    progress: Progress | None = None,
    command: str = "",
    **options: Any,
) -> SearchResult:
    """Search a model's settings and keep the best as a run.

    A setting's score is its mean validation WAF over folds and seeds, each at its best epoch. The best
    setting was chosen by it, so that its score is too good: `evaluate` the run on another split. A search
    that was killed goes on where it was when the same is asked again.

    Args:
        store: The store; it moves to the commits that the search makes.
        card: The model, or its name.
        trials: How many draws; the same draw twice is trained once.
        sampler: `random`, or `tpe`.
        prune: Whether all settings are trained for a ninth of the epochs only, the best third of them for a
            third, and the best third of these for all (successive halving, Jamieson and Talwalkar 2016; each
            time from the start, but for members whose patience ended before: theirs stands).
        seeds: Weights and orders that each setting is trained with, on the same folds.
        draw: Values to draw from, beside or instead of the card's.
        fix: Parameters or settings that are not drawn.
        seed: Decides draws, folds, weights, order and dropout.
        settings: Of training; what is drawn replaces its values.
        name: Of the run; None takes `<model>-N`.
        tensorboard: Folder for the event files of the best setting's run.
        progress: Called after each epoch.
        command: For the journal.
        options: `features`, `labels`, `folds`, `split`, `strict` … as `mer_zoo.train.train` takes them.

    Raises:
        UnknownName: No such model, parameter, sampler, space, layer or split.
        ZooError: optuna is missing, nothing can be drawn, or no setting could be trained.
        NameTaken: There is a run of that name.
    """
    began = time.monotonic()
    card = find_model(card) if isinstance(card, str) else card
    if trials < 1 or seeds < 1:
        raise ZooError(
            f"{trials} trials of {seeds} seeds are no search", "use --trials and --seeds 1 or more"
        )
    check_seed(seed)
    space = make_space(card, draw=draw, fix=fix, settings=settings)
    drawing = Sampler(space, sampler, seed)
    plan = make_plan(store, card, params=space.params, settings=space.settings, seed=seed, **options)
    state = State(store, plan, digest_of(plan, space, seeds), command)
    if state.refitted is None:
        check_name_is_free(store, name)
    ladder = rungs(space.settings.epochs) if prune else [space.settings.epochs]
    judge = Judge(plan, space, state, seeds, ladder, Count(progress))
    last = _run_trials(drawing, trials, judge)
    ranked = _ranked(last)
    if ranked[0].failed:
        raise ZooError(f"none of {len(ranked)} settings could be trained: {ranked[0].failed}")
    run = _refit(store, plan, space, ranked[0], state, name, tensorboard, command)
    epochs = sum(outcome.trained for outcome in state.outcomes.values())
    facts = {"drawn": trials, "size": space.size, "names": drawing.names, "epochs": epochs}
    record = _record(store, plan, run.name, ranked, facts, state.digest, command)
    state.clear()
    return SearchResult(
        name=record,
        run=run,
        best=ranked[0],
        outcomes=ranked,
        drawn=trials,
        size=space.size,
        names=tuple(drawing.names),
        epochs=epochs,
        resumed=state.resumed,
        seconds=time.monotonic() - began,
        notices=plan.notices,
    )


def table_of(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Return outcomes as the rows of a table: what was drawn, epochs, mean and spread of each score."""
    return {
        "trials": [
            {
                "draw": dict(outcome.draw),
                "epochs": outcome.epochs,
                "failed": outcome.failed,
                "members": [dict(m) for m in outcome.members],
                **{s: {"mean": outcome.mean(s), "std": outcome.std(s)} for s in SCORES if outcome.members},
            }
            for outcome in outcomes
        ]
    }


def _run_trials(sampler: Sampler, trials: int, judge: "Judge") -> dict[str, Outcome]:
    """Draw and judge until there were so many trials; return the last outcome of each distinct setting."""
    found: dict[str, Outcome] = {}
    while trials:
        asked = sampler.ask(min(trials, ROUND) if sampler.learns else trials)
        trials -= len(asked)
        fresh = {key_of(draw): draw for _, draw in asked if key_of(draw) not in found}
        judge.expect(len(fresh) + trials)  # of trials still to come nobody knows how many are new
        found.update(judge(list(fresh.values())))
        for trial, draw in asked:
            outcome = found[key_of(draw)]
            sampler.tell(trial, None if outcome.failed else outcome.mean())
    return found


def _ranked(found: Mapping[str, Outcome]) -> tuple[Outcome, ...]:
    """Best first: those with the most epochs, by mean WAF; equal ones in the order drawn."""
    return tuple(sorted(found.values(), key=lambda o: (bool(o.failed), -o.epochs, -o.mean())))


def _refit(
    store: "Store",
    plan: Plan,
    space: Space,
    best: Outcome,
    state: State,
    name: str | None,
    tensorboard: Path | None,
    command: str,
) -> RunResult:
    """Train the best setting as a run, or find that it was done already."""
    if state.refitted is not None:
        return result_of(state.refitted, plan.notices)
    params, settings = space.apply(best.draw)
    return carry_out(
        store,
        plan.changed({**plan.config.params, **params}, settings),
        name=name,
        attrs={"search": state.digest},
        tensorboard=tensorboard,
        command=command,
        message=f"search {plan.config.model}: refit the best of {len(state.outcomes)} settings",
    )


def _record(
    store: "Store",
    plan: Plan,
    run: str,
    ranked: Sequence[Outcome],
    facts: Mapping[str, Any],
    digest: str,
    command: str,
) -> str:
    best = ranked[0]
    attrs = {"type": SEARCH, "run": run, "model": plan.config.model, "digest": digest, "waf": best.mean()}
    bundle = store.runs.add_numbered(
        f"{run}.search",
        {"search.json": dump({**attrs, **facts, **table_of(ranked)})},
        parents=(f"runs/{run}",),
        attrs={**attrs, "drawn": facts["drawn"], "distinct": len(ranked)},
        command=command,
        message=f"search {plan.config.model}: best of {len(ranked)} settings has mean WAF {best.mean():.4f}",
    )
    return bundle.name
