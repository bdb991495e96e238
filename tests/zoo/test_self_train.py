"""The loop of self-training: its rounds, its table, and that it survives any interruption."""

import itertools
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mer_featurestore import LabelLayer, Store
from mer_featurestore.bundles import Bundle
from mer_featurestore.errors import NameTaken, StoreError, UnknownName
from mer_featurestore.maintenance import remove
from mer_zoo.errors import ZooError
from mer_zoo.loop_table import Loop
from mer_zoo.predict import predict
from mer_zoo.recruits import read_recruit
from mer_zoo.rules import make_rules
from mer_zoo.runs import find_run, list_runs
from mer_zoo.self_train import self_train
from mer_zoo.settings import Settings
from mer_zoo.train import train

ROUNDS = 2
COMMITS = 1 + 2 * (ROUNDS + 1) + ROUNDS  # the plan, two runs a stage, the layers


def loop(store: Store, **options: Any) -> Loop:
    """Run two quick rounds with two members."""
    given: dict[str, Any] = {
        "rounds": ROUNDS,
        "members": ["mlp:sound-UTT"],
        "folds": 2,
        "stop_after": 5,
        "params": {"hidden": 8},
        "settings": Settings(epochs=6, lr=0.02),
        "rules": make_rules(threshold=0.5, calibrate="temperature"),
        "seed": 3,
    }
    return self_train(store, "mlp", **{**given, **options})


class Interrupted(Exception):
    """Stands for anything that ends a process in the middle."""


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> tuple[Store, Loop]:
    """Return a store in which the loop ran through, and what it said."""
    store = toy(tmp_path_factory.mktemp("loop") / "store")
    return store, loop(store)


def assert_same(a: Store, b: Store) -> None:
    """Layers are equal in every array and attribute, runs in every byte."""
    assert list(a.labels) == list(b.labels)
    assert all(a.labels[name] == b.labels[name] for name in a.labels)
    assert list(a.runs) == list(b.runs)
    for name in a.runs:
        assert {f: a.runs[name].read(f) for f in a.runs[name].files} == {
            f: b.runs[name].read(f) for f in b.runs[name].files
        }


def test_a_loop_publishes_its_rounds(done: tuple[Store, Loop]) -> None:
    """Each round stands on the one before and on the members that made it, and is trained on by the next."""
    store, found = done
    assert [stage.layer for stage in found.stages] == ["gold", "round1", "round2"]
    assert store.labels["round1"].parents == ("labels/gold", "runs/round0-mlp", "runs/round0-mlp-sound-UTT")
    assert store.labels["round2"].parents == (
        "labels/round1", "runs/round1-mlp", "runs/round1-mlp-sound-UTT",
    )  # fmt: skip
    assert store.runs["round2-mlp"].attrs["labels"] == "round2"
    assert found.stopped == "all 2 rounds are made"
    assert store.runs["round.plan"].attrs["type"] == "self-training plan"
    with pytest.raises(ZooError, match="is a self-training plan"):
        predict(store, "round.plan")


def test_the_table_counts_what_is_there(done: tuple[Store, Loop]) -> None:
    """Kept, flips, precision and scores are those of layers and runs."""
    store, found = done
    first, second = (stage.labelled for stage in found.stages[1:])
    layer = store.labels["round1"]
    assert (first.kept, first.judged) == (layer.kept.sum(), 30)
    assert first.flips is None
    assert second.flips == len(store.labels.diff("round1", "round2").flips)
    for stage in found.stages:
        assert stage.waf_interval.low <= stage.waf <= stage.waf_interval.high
        assert stage.uar_interval.low <= stage.uar <= stage.uar_interval.high
    assert all(0.5 < p <= 1 for p in first.estimated.values())
    assert found.best.waf == max(stage.waf for stage in found.stages)


def test_a_finished_loop_is_only_told_again(done: tuple[Store, Loop]) -> None:
    """The same command writes nothing; an audit measures precision and changes nothing else."""
    store, found = done
    before = store.commit
    kept = [key for key, k in zip(store.labels["round1"].keys, store.labels["round1"].kept, strict=True) if k]
    truth = {key: store.labels["round1"][key] for key in kept[:4]} | {kept[4]: "sad"}
    wrong = int(store.labels["round1"][kept[4]] != "sad")
    scratch = Store.open(store.url)
    scratch.labels.add(LabelLayer.human("audit", ("angry", "happy", "sad"), truth))
    again = loop(scratch, audit="audit")
    assert scratch.commit == before + 1
    assert [s.waf for s in again.stages] == [s.waf for s in found.stages]
    share, interval = again.stages[1].labelled.precision
    assert share == pytest.approx((5 - wrong) / 5)
    assert interval.low < share <= interval.high
    assert found.stages[1].labelled.precision is None
    remove(scratch, "labels/audit")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory, toy: Callable[[Path], Store]) -> tuple[Store, Loop]:
    """Return a store in which a warm loop ran through, and what it said."""
    store = toy(tmp_path_factory.mktemp("warm") / "store")
    return store, loop(store, warm=True)


@pytest.mark.parametrize("way", ["done", "warm"])
def test_interrupted_anywhere_it_ends_the_same(
    way: str,
    request: pytest.FixtureRequest,
    toy: Callable[[Path], Store],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Dying before every single commit, with the work for it lost, leads to the same layers and runs."""
    straight, told = request.getfixturevalue(way)
    folder = tmp_path / "store"
    toy(folder)
    write = Store.write
    allowed = 0

    def stumbling(self: Store, *args: Any, **kwargs: Any) -> Any:
        nonlocal allowed
        if not allowed:
            raise Interrupted
        allowed -= 1
        return write(self, *args, **kwargs)

    monkeypatch.setattr(Store, "write", stumbling)
    for _ in range(COMMITS):
        allowed = 1
        try:
            loop(Store.open(folder), warm=way == "warm")
        except Interrupted:
            continue
        break
    allowed = 0
    found = loop(Store.open(folder), warm=way == "warm")
    assert [s.waf for s in found.stages] == [s.waf for s in told.stages]
    assert_same(Store.open(folder), straight)


def test_warm_rounds_go_on_from_the_round_before(
    done: tuple[Store, Loop], warm: tuple[Store, Loop], tmp_path: Path
) -> None:
    """Each member begins with its own run of the round before; the first round is as from scratch."""
    begun = {name: find_run(warm[0], name).config.warm for name in list_runs(warm[0])}
    assert begun == {
        "round0-mlp": None, "round0-mlp-sound-UTT": None,
        "round1-mlp": "round0-mlp", "round1-mlp-sound-UTT": "round0-mlp-sound-UTT",
        "round2-mlp": "round1-mlp", "round2-mlp-sound-UTT": "round1-mlp-sound-UTT",
    }  # fmt: skip
    assert warm[0].labels["round1"] == done[0].labels["round1"]
    cold, hot = (find_run(store, "round1-mlp").history for store, _ in (done, warm))
    assert all(h["epochs"][0]["loss"] < c["epochs"][0]["loss"] for c, h in zip(cold, hot, strict=True))
    store = Store.open(shutil.copytree(done[0].url, tmp_path / "store"))
    with pytest.raises(ZooError, match=r"training\.warm was False and is True"):
        loop(store, warm=True)


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path[:0] = [{here!r}]
from mer_featurestore import Store
from test_self_train import loop
write, left = Store.write, 4
def deadly(self, *args, **kwargs):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return write(self, *args, **kwargs)
Store.write = deadly
loop(Store.open({store!r}))
"""


def test_killed_it_ends_the_same(
    done: tuple[Store, Loop], toy: Callable[[Path], Store], tmp_path: Path
) -> None:
    """A process that is killed as it commits the first round loses that round and nothing else."""
    folder = tmp_path / "store"
    toy(folder)
    script = KILLED.format(here=str(Path(__file__).parent), store=str(folder))
    killed = subprocess.run([sys.executable, "-c", script], env=dict(os.environ), check=False)
    assert killed.returncode == -signal.SIGKILL
    assert "round0-mlp-sound-UTT" in Store.open(folder).runs
    assert "round1" not in Store.open(folder).labels
    store = Store.open(folder)
    loop(store)
    assert_same(store, done[0])


def test_a_loop_can_be_made_longer(done: tuple[Store, Loop], tmp_path: Path) -> None:
    """More rounds go on where the loop ended; other options are refused, and the message shows which."""
    store = Store.open(shutil.copytree(done[0].url, tmp_path / "store"))
    longer = loop(store, rounds=3)
    assert [stage.layer for stage in longer.stages] == ["gold", "round1", "round2", "round3"]
    assert [s.waf for s in longer.stages[:3]] == [s.waf for s in done[1].stages]
    with pytest.raises(ZooError, match=r"threshold was 0\.5 and is 0\.6; training\.seed was 3 and is 4"):
        loop(store, seed=4, rules=make_rules(threshold=0.6, calibrate="temperature"))
    with pytest.raises(ZooError, match="use 1 or more of each"):
        loop(store, rounds=0)
    with pytest.raises(ZooError, match="is named twice"):
        loop(store, members=["mlp:sound-UTT", "mlp:sound-UTT"])


def test_a_loop_of_an_earlier_version_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A plan from before an option existed is one that did without it."""
    loop(store, members=[], rounds=1)
    read = Bundle.json

    def earlier(self: Bundle, file: str) -> Any:
        document = read(self, file)
        if file == "plan.json":
            del document["training"]["warm"], document["training"]["settings"]["label_smoothing"]
        return document

    monkeypatch.setattr(Bundle, "json", earlier)
    before = store.commit
    loop(store, members=[], rounds=1)
    assert store.commit == before


def test_it_stops_when_the_score_does_not_rise(store: Store) -> None:
    """With one round of patience it ends at the first WAF that is not higher; the layer stays."""
    found = loop(store, stop_after=1, members=[], rounds=3)
    wafs = [stage.waf for stage in found.stages]
    if len(wafs) < 4:
        assert wafs[-1] <= max(wafs[:-1])
        assert found.stopped == "WAF did not rise for 1 round"
    assert all(b > a for a, b in itertools.pairwise(wafs[:-1]))


def test_a_loop_over_test_clips_says_so(store: Store) -> None:
    """Asked for by name, test clips are labelled with a warning, and do not train."""
    gold = store.labels["gold"]
    only = {key: gold[key] for key in gold.keys if key.startswith("train")}
    store.labels.add(LabelLayer.human("train-only", ("angry", "happy", "sad"), only))
    told: list[str] = []
    loop(store, members=[], rounds=1, labels="train-only", split="test", told=told.append)
    assert "Note: these are test clips: a model trained on this layer leaves them out" in told
    assert find_run(store, "round1-mlp").config.pseudo == ()


def test_it_stops_when_nothing_is_sure(store: Store) -> None:
    """A threshold that nobody reaches ends the loop with the human labels alone."""
    found = loop(store, members=[], rules=make_rules(threshold=1.0))
    assert [stage.layer for stage in found.stages] == ["gold"]
    assert "is sure enough" in found.stopped
    assert list(store.labels) == ["gold"]


@pytest.mark.parametrize(
    "wrong",
    [
        {"members": ["mpl:sound-UTT"]}, {"members": ["mlp:sound-UT"]}, {"labels": "golt"}, {"audit": "golt"},
        {"split": "unlabelled"}, {"train_split": "trian"}, {"params": {"hiden": 8}},
        {"rules": make_rules(experts=["mpl"], expert_classes=["sad"])},
        {"rules": make_rules(experts=["mlp"], expert_classes=["sda"])},
    ],
)  # fmt: skip
def test_a_slip_puts_no_plan_on_record(store: Store, wrong: dict[str, Any]) -> None:
    """A wrong name is told before anything is trained, so that the name of the loop is still free."""
    before = store.commit
    with pytest.raises(UnknownName):
        loop(store, **wrong)
    assert Store.open(store.url).commit == before


@pytest.mark.parametrize("given", [{"threshold": 7.0}, {"class_thresholds": {"sad": "-1"}}])
def test_a_threshold_that_is_no_probability_makes_no_rules(given: dict[str, Any]) -> None:
    """It is told before the members are trained, and not by the first vote."""
    with pytest.raises(ZooError, match=r"threshold.* is"):
        make_rules(**given)


def test_it_takes_no_names_of_others(store: Store) -> None:
    """A layer of a name the loop needs, which it did not make, is left alone."""
    store.labels.add(LabelLayer.human("round1", ("angry", "happy", "sad"), {"train-00": "sad"}))
    before = store.commit
    with pytest.raises(NameTaken, match="'round1' already, and it is not of this loop"):
        loop(store, labels="gold")
    assert store.commit == before


def test_rounds_stay_usable(done: tuple[Store, Loop]) -> None:
    """A round is trained on, compared, explained; one that others stand on cannot be removed."""
    store = Store.open(done[0].url)
    result = train(store, "mlp", labels="round2", folds=2, settings=Settings(epochs=1), name="after")
    assert result.pseudo == int(store.labels["round2"].kept.sum())
    assert store.labels.diff("round1", "round2").classes == ("angry", "happy", "sad")
    assert {s.layer for s in store.labels.blame("unlabeled-00", "round2").sayings} == {"round1", "round2"}
    with pytest.raises(StoreError, match="labels that others stand on are never removed"):
        remove(store, "labels/round1")
    assert "round1" in store.labels
    remove(store, "runs/after")


def test_members_as_typed() -> None:
    """A model alone, or with spaces and layers of spaces; anything else is refused."""
    assert read_recruit("agt").label == "agt"
    recruit = read_recruit("attention:sound-UTT,face-UTT:3")
    assert recruit.features == ("sound-UTT", "face-UTT:3")
    assert recruit.label == "attention-sound-UTT-face-UTT.3"
    for wrong in ("", ":a", "mlp:", "mlp:a,,b"):
        with pytest.raises(ZooError, match="is no member"):
            read_recruit(wrong)


def test_experts_are_members_as_typed(store: Store) -> None:
    """A weight matrix names members as typed, and the layer names the runs these became."""
    rules = make_rules(threshold=0.3, experts=["mlp:sound-UTT"], expert_classes=["sad"], expert_weight=3)
    loop(store, rounds=1, rules=rules)
    assert store.labels["round1"].attrs["vote_params"] == {"weights": {"round0-mlp-sound-UTT": {"sad": 3.0}}}
