"""Searching settings: what is drawn, trained once, pruned, resumed and refitted."""

from typing import Any

import numpy as np
import pytest

from mer_featurestore import Store
from mer_featurestore.errors import NameTaken, UnknownName
from mer_zoo import judging
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.judging import most_epochs, rungs
from mer_zoo.registry import find_model
from mer_zoo.rerun import rerun
from mer_zoo.runs import SEARCH, SEARCH_PART, find_run, list_runs
from mer_zoo.search import SearchResult, search
from mer_zoo.search_space import Sampler, key_of, make_space
from mer_zoo.settings import Settings
from mer_zoo.train import train
from mer_zoo.training import Diverged

pytest.importorskip("optuna", reason="needs the extra `search`")

QUICK = Settings(epochs=3, batch_size=16)
DRAW = {"hidden": (4, 8), "layers": (1,), "dropout": (0.2, 0.3), "lr": (1e-2, 1e-3)}
OPTIONS: dict[str, Any] = {
    "folds": 2,
    "settings": QUICK,
    "draw": DRAW,
    "features": ["sound-UTT", "words-UTT"],
}


def quick(store: Store, **changes: Any) -> SearchResult:
    """Search settings of the smallest probe."""
    return search(store, "mlp", **{**OPTIONS, "trials": 6, **changes})


def bundles(store: Store, kind: str) -> list[str]:
    """Return the names of the bundles of a type."""
    return [b.name for b in store.runs.values() if b.attrs.get("type") == kind]


@pytest.fixture(scope="module")
def searched(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, SearchResult]:
    """Return a store and a search of 20 draws over 8 settings."""
    import shutil

    folder = tmp_path_factory.mktemp("search") / "store"
    shutil.copytree(toy_store.url, folder)
    store = Store.open(folder)
    return store, quick(store, trials=20, command="typed")


def test_the_field_s_recipe(searched: tuple[Store, SearchResult]) -> None:
    """Each distinct draw is trained once on every fold, ranked by mean WAF, with the spread over folds."""
    store, found = searched
    assert (found.drawn, found.size) == (20, 8)
    assert 4 < len(found.outcomes) <= 8
    assert len({key_of(o.draw) for o in found.outcomes}) == len(found.outcomes)
    waf = [o.mean() for o in found.outcomes]
    assert waf == sorted(waf, reverse=True)
    for outcome in found.outcomes:
        assert [m["fold"] for m in outcome.members] == [0, 1]
        assert outcome.mean() == pytest.approx(np.mean([m["waf"] for m in outcome.members]))
        assert outcome.std() == pytest.approx(np.std([m["waf"] for m in outcome.members], ddof=1))
    assert found.epochs == 3 * 2 * len(found.outcomes)
    assert {c.command for c in store.log() if "search" in c.message} == {"typed"}


def test_the_best_setting_is_refitted(searched: tuple[Store, SearchResult]) -> None:
    """It is a run as `train` makes it, with the scores it had in the search; it can be used and rerun."""
    store, found = searched
    config = find_run(store, found.run.name).config
    best = found.outcomes[0].draw
    assert (config.params["hidden"], config.params["dropout"]) == (best["hidden"], best["dropout"])
    assert (config.settings.lr, config.settings.epochs) == (best["lr"], 3)
    assert found.run.mean["waf"]["mean"] == pytest.approx(found.best.mean(), abs=1e-6)
    assert found.run.mean["waf"]["std"] == pytest.approx(found.best.std(), abs=1e-6)
    by_hand = train(
        store, "mlp", features=OPTIONS["features"], folds=2, settings=config.settings,
        params={name: best[name] for name in ("hidden", "layers", "dropout")},
    )  # fmt: skip
    assert by_hand.scores == found.run.scores
    assert evaluate(store, found.run.name).n > 0
    assert rerun(store, found.run.name).identical


def test_the_search_is_on_record(searched: tuple[Store, SearchResult]) -> None:
    """One bundle holds the table and names the run; what kept it alive is tidied away; it is no run."""
    store, found = searched
    document = store.runs[found.name].json("search.json")
    assert [row["draw"] for row in document["trials"]] == [dict(o.draw) for o in found.outcomes]
    assert document["trials"][0]["waf"]["mean"] == found.best.mean()
    assert document["run"] == found.run.name
    assert bundles(store, SEARCH_PART) == []
    assert found.name not in list_runs(store)
    with pytest.raises(ZooError, match=f"a search; name the run itself: {found.run.name}"):
        find_run(store, found.name)


def killed_after(parts: int, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Let the search be interrupted once so many groups of settings are committed; return the undoing."""
    real, done = judging.fit, []

    def fit(*arguments: Any, **options: Any) -> Any:
        if len(done) == parts:
            raise KeyboardInterrupt
        done.append(1)
        return real(*arguments, **options)

    monkeypatch.setattr(judging, "fit", fit)
    return lambda: monkeypatch.setattr(judging, "fit", real)


def test_a_killed_search_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was committed is not trained again, and the end is that of a search that was never killed."""
    alive = quick(store, name="alive")
    undo = killed_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        quick(store, name="killed")
    undo()
    assert len(bundles(store, SEARCH_PART)) == 1
    assert "killed" not in store.runs
    again = Store.open(store.url)
    found = quick(again, name="killed")
    assert 0 < found.resumed < len(found.outcomes)
    assert found.epochs == alive.epochs
    assert [o.draw for o in found.outcomes] == [o.draw for o in alive.outcomes]
    assert [o.mean() for o in found.outcomes] == pytest.approx([o.mean() for o in alive.outcomes], abs=1e-6)
    assert bundles(again, SEARCH_PART) == []


def test_parts_are_used_only_for_the_same_search(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Other folds, data, seeds or fixed settings begin anew; more trials go on with what there is."""
    undo = killed_after(1, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        quick(store)
    undo()
    for changes in (
        {"folds": 3},
        {"seeds": 2},
        {"seed": 1},
        {"features": ["words-UTT"]},
        {"fix": {"weight_decay": 0.1}},
    ):
        assert quick(store, **{"trials": 1, **changes}).resumed == 0
    assert len(bundles(store, SEARCH_PART)) == 1
    assert quick(store, trials=7).resumed > 0


def test_a_search_killed_before_its_record_keeps_its_run(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between refitting and the record, it does not refit again, nor stumble over its own name."""
    with monkeypatch.context() as patch:
        patch.setattr("mer_zoo.search._record", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quick(store, trials=2, name="mine")
    assert "mine" in store.runs
    found = quick(store, trials=2, name="mine")
    assert (found.run.name, list_runs(store)) == ("mine", ["mine"])
    assert found.name == "mine.search-1"
    with monkeypatch.context() as patch:  # killed before the parts are tidied away
        patch.setattr("mer_zoo.search_state.State.clear", lambda _: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            quick(store, trials=2)
    assert quick(store, trials=2).resumed == 0
    assert bundles(store, SEARCH_PART) == []
    assert len(bundles(store, SEARCH)) == 3


def test_pruning_halves_successively(store: Store) -> None:
    """A third goes on for three times the epochs; the best is one of those that had them all."""
    found = quick(store, trials=20, prune=True, settings=Settings(epochs=9, batch_size=16, patience=9))
    count = len(found.outcomes)
    epochs = [outcome.epochs for outcome in found.outcomes]
    thirds = -(-count // 3)
    ninths = -(-thirds // 3)
    assert epochs == [9] * ninths + [3] * (thirds - ninths) + [1] * (count - thirds)
    assert found.epochs == 2 * (count * 1 + thirds * 3 + ninths * 9) < 2 * count * 9
    assert len(find_run(store, found.run.name).history[0]["epochs"]) == 9
    assert rungs(100) == [11, 33, 100]
    assert rungs(2) == [1, 2]
    assert most_epochs(24, [11, 33, 100]) == 24 * 11 + 8 * 33 + 3 * 100


def test_tpe_learns_from_the_scores(store: Store) -> None:
    """After its random start it draws good settings more often than bad ones, and is the same each time."""
    space = make_space(
        find_model("mlp"), draw={"lr": (1e-1, 1e-2, 1e-3, 1e-4)}, fix={"hidden": 4, "layers": 1}
    )
    drawn = []
    for _ in range(2):
        sampler = Sampler(space, "tpe", seed=0)
        draws = []
        for _ in range(6):
            for trial, draw in sampler.ask(10):
                draws.append(draw)
                sampler.tell(trial, float(draw["lr"] == 1e-2))
        drawn.append(draws)
    assert drawn[0] == drawn[1]
    assert sum(d["lr"] == 1e-2 for d in drawn[0][20:]) > 20
    assert quick(store, sampler="tpe", trials=12).drawn == 12


def test_seeds_repeat_each_setting_on_the_same_folds(store: Store) -> None:
    """Two seeds give two members per fold; the first are those of a search with one."""
    fix = {"fix": {"lr": 0.01}, "draw": {"hidden": (4,), "layers": (1,), "dropout": (0.3,)}}
    one, two = (quick(store, trials=1, seeds=seeds, **fix).best for seeds in (1, 2))
    assert [(m["seed"], m["fold"]) for m in two.members] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert [m["waf"] for m in two.members[:2]] == pytest.approx([m["waf"] for m in one.members], abs=1e-6)


def test_a_setting_that_diverges_is_told_and_the_others_are_searched(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is last in the table with its reason; when all diverge, that is the error."""
    real = judging.fit

    def fit(task: Any, members: Any, **options: Any) -> Any:
        if any(member.settings.lr > 1 for member in members):
            raise Diverged("the loss of fold-0 became nan in epoch 1")
        return real(task, members, **options)

    monkeypatch.setattr(judging, "fit", fit)
    wild = {**DRAW, "lr": (1e-2, 1e3)}
    found = quick(store, trials=12, draw=wild)
    failed = [o for o in found.outcomes if o.failed]
    assert failed
    assert all(o.draw["lr"] == 1e3 and "became nan" in o.failed for o in failed)
    assert found.outcomes[-len(failed) :] == tuple(failed)
    with pytest.raises(ZooError, match=r"none of . settings could be trained: the loss of fold-0"):
        quick(store, draw={**DRAW, "lr": (1e3,)})


def test_a_setting_that_makes_no_model_is_told_and_the_others_are_searched(store: Store) -> None:
    """Sizes that do not go together fail on their own, with the model's own words."""
    found = quick(store, trials=12, draw={**DRAW, "dropout": (0.3, 2.0)})
    failed = [o for o in found.outcomes if o.failed]
    assert 0 < len(failed) < len(found.outcomes)
    assert all(o.draw["dropout"] == 2.0 and "dropout rate of 2" in o.failed for o in failed)


def test_what_is_drawn() -> None:
    """The card's space by default; text is read as the default's type; fixed values are not drawn."""
    card = find_model("attention")
    space = make_space(card)
    assert (dict(space.choices), space.size) == (dict(card.search), 24)
    space = make_space(card, draw={"hidden": ["32"], "batch_size": ["16", "32"]}, fix={"lr": "0.01"})
    assert dict(space.choices) == {"hidden": (32,), "dropout": card.search["dropout"], "batch_size": (16, 32)}
    params, settings = space.apply({"hidden": 32, "dropout": 0.2, "batch_size": 16})
    assert params == {"hidden": 32, "dropout": 0.2}
    assert (settings.lr, settings.batch_size) == (0.01, 16)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"draw": {"hiden": (1,)}}, UnknownName, "did you mean 'hidden'"),
        ({"fix": {"epochs": 3}}, UnknownName, "no parameter of mlp or setting named 'epochs'"),
        ({"fix": {"hidden": 4}, "draw": {"hidden": (4, 8)}}, ZooError, "hidden is both fixed and drawn"),
        ({"draw": {"lr": (0.1, -1)}}, ZooError, "learning rate -1"),
        ({"draw": {"hidden": ("many",)}}, ZooError, "whole number"),
        ({"draw": {"hidden": ()}}, ZooError, "nothing to draw"),
        ({"sampler": "tpee"}, UnknownName, "did you mean 'tpe'"),
        ({"trials": 0}, ZooError, "0 trials"),
        ({"name": "taken"}, NameTaken, "taken"),
    ],
)  # fmt: skip
def test_mistakes_are_told_before_training(
    toy_store: Store, options: dict[str, Any], error: type[Exception], match: str
) -> None:
    """What cannot be searched is one error with a remedy, and nothing is trained."""
    store = Store.open(toy_store.url)
    if "name" in options and "taken" not in store.runs:
        store.runs.add("taken", {"x": b""})
    before = store.commit
    with pytest.raises(error, match=match):
        search(store, "mlp", **{"trials": 2, "folds": 2, "settings": QUICK, **options})
    assert store.commit == before


def test_without_optuna_the_remedy_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing package is one error that names the extra."""
    import sys

    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ZooError, match=r"pip install 'mer-fs\[search\]'"):
        quick(store)


def test_a_member_that_lost_patience_is_not_trained_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pruned or not, survivors have the same scores; the epochs that are told were trained, no others."""
    patient = {"settings": Settings(epochs=27, batch_size=16, patience=2), "trials": 4}
    whole = quick(store, **patient)
    real, trained = judging.fit, []
    monkeypatch.setattr(judging, "fit", lambda *a, **k: trained.append(real(*a, **k)) or trained[-1])
    pruned = quick(store, **patient, prune=True)
    scores = {key_of(o.draw): o.members for o in whole.outcomes}
    carried = 0
    for outcome in pruned.outcomes:
        if outcome.epochs < 27:
            continue
        for member, other in zip(outcome.members, scores[key_of(outcome.draw)], strict=True):
            assert member["waf"] == pytest.approx(other["waf"])
            assert member["epochs"] == other["epochs"]
            carried += "carried" in member
    assert carried
    assert pruned.epochs == sum(len(fitted.history) for group in trained for fitted in group)


@pytest.mark.parametrize("prune", [False, True])
def test_progress_ends_where_it_said(store: Store, prune: bool) -> None:
    """The callback hears of growing numbers that end at the total."""
    heard: list[tuple[int, int]] = []
    quick(store, trials=3, prune=prune, progress=lambda done, total: heard.append((done, total)))
    assert [done for done, _ in heard] == sorted(done for done, _ in heard)
    assert heard[-1][0] == heard[-1][1]
    assert len({total for _, total in heard}) == 1
