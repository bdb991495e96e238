"""Reports: the numbers are those of the runs, the page needs nothing else, and odd data do not break it."""

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mer_featurestore import LabelLayer, Store
from mer_featurestore.errors import UnknownName
from mer_zoo.errors import ZooError
from mer_zoo.evaluate import evaluate
from mer_zoo.metrics import score
from mer_zoo.pseudo_label import pseudo_label
from mer_zoo.report import write_report
from mer_zoo.report.figures import _reliability, _running_mean
from mer_zoo.report.gather import gather
from mer_zoo.report.model import LayerView, Mistake, Report, RunView
from mer_zoo.report.style import _MARKERS, PAGE, to_svg
from mer_zoo.report.write import _plan, write_page
from mer_zoo.runs import list_evaluations
from mer_zoo.settings import Settings
from mer_zoo.train import train

QUICK = Settings(epochs=6, patience=6)


@pytest.fixture(scope="module")
def trained(toy_store: Store, tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with two runs on gold, a round of pseudo-labels, and a run on it."""
    folder = tmp_path_factory.mktemp("trained") / "store"
    shutil.copytree(toy_store.url, folder)
    store = Store.open(folder)
    train(store, "mlp", features=["sound-UTT"], folds=3, settings=QUICK, name="ears", command="typed $ears")
    train(store, "mlp", level="utt", folds=3, settings=QUICK, name="all")
    pseudo_label(store, ["all", "ears"], "gold", threshold=0.3, name="round1")
    train(store, "mlp", labels="round1", level="utt", folds=3, settings=QUICK, name="again")
    return store


@pytest.fixture(scope="module")
def page(trained: Store, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the page of a report on all three runs."""
    folder = tmp_path_factory.mktemp("report")
    return write_report(trained, ["ears", "all", "again"], folder, title="Three <runs> & more", note="a note")


def make_run(name: str, classes: tuple[str, ...], n: int = 40, seed: int = 0, folds: int = 2) -> RunView:
    """Return a run of random predictions."""
    rng = np.random.default_rng(seed)
    label, probs = rng.integers(0, len(classes), n), rng.dirichlet(np.ones(len(classes)), n)
    return RunView(
        name=name,
        model="m",
        modalities=("audio",),
        layer="gold",
        human=n,
        pseudo=0,
        scores=score(label, probs, classes),
        interval=score(label, probs, classes).intervals["waf"],
        label=label,
        probs=probs,
        curves=tuple(rng.random(3 + fold) for fold in range(folds)),
    )


def make_report(runs: tuple[RunView, ...], **changes: object) -> Report:
    """Return a report of runs with nothing else."""
    plain = {
        "title": "t",
        "note": "",
        "store": "s",
        "commit": 1,
        "split": "test",
        "labels": "gold",
        "classes": runs[0].scores.classes,
        "runs": runs,
    }
    return Report(**{**plain, **changes})  # type: ignore[arg-type]  # a test's shorthand


def test_page_shows_the_scores_of_the_runs(trained: Store, page: Path) -> None:
    """WAF, UAR and the counts of training clips on the page are those that evaluate and the runs give."""
    text = page.read_text("utf-8")
    for name in ("ears", "all", "again"):
        scores = evaluate(trained, name)
        row = re.search(rf"</span>{name}</td>.*?</tr>", text, re.DOTALL)
        assert row
        assert f"{scores.waf:.3f}" in row[0]
        assert f"{scores.uar:.3f}" in row[0]
    assert f">{trained.runs['again'].attrs['pseudo']}</td>" in row[0]


def test_page_needs_nothing_else(page: Path) -> None:
    """No address is loaded from anywhere, there is no script, and every figure is in the page."""
    text = page.read_text("utf-8")
    loaded = re.findall(r"""(?:src|href|url)\s*[=(]\s*["']?([^"')\s>]+)""", text)
    assert all(target.startswith("#") for target in loaded)
    assert not re.search(r"<script|<link|@import", text)
    assert text.count("<svg") == 8
    assert str(page.parent) not in text


def test_figures_of_one_page_share_no_ids(page: Path) -> None:
    """An id used twice would let one figure clip or mark another."""
    ids = re.findall(r'\bid="([^"]+)"', page.read_text("utf-8"))
    assert len(ids) == len(set(ids)) > 10


def test_figures_follow_the_reader_s_light_or_dark(page: Path) -> None:
    """No marker colour is left, and each variable a figure uses is defined for light and for dark."""
    text = page.read_text("utf-8")
    assert not any(marker in text for marker in _MARKERS)
    for variable in set(re.findall(r"var\((--[a-z0-9-]+)\)", text)):
        defined = len(re.findall(rf"{variable}:", text))
        assert defined == 2, variable


def test_png_figures_lie_beside_the_page(page: Path) -> None:
    """Every figure is also a PNG of a useful size on white."""
    images = sorted((page.parent / "figures").glob("*.png"))
    assert len(images) == 8
    for path in images:
        with Image.open(path) as image:
            assert min(image.size) > 250
            assert image.convert("RGB").getpixel((2, 2)) == (255, 255, 255)


def test_text_from_the_store_is_text_on_the_page(page: Path, tmp_path: Path) -> None:
    """Titles, transcripts and names with markup, dollars or odd letters are shown, not interpreted."""
    assert "Three &lt;runs&gt; &amp; more" in page.read_text("utf-8")
    classes = ("$x_1$", "<b>bold</b>", "très")
    mistake = Mistake(
        key="k<1>", label=classes[0], said=classes[1], confidence=0.9, text="<script>alert(1)</script>"
    )
    report = make_report((make_run("a & b", classes),), mistakes=(mistake,), note="<i>")
    text = write_page(report, tmp_path).read_text("utf-8")
    assert "<script>" not in text
    assert "<b>bold" not in text
    assert "k&lt;1&gt;" in text
    assert "$x_1$" in text


def test_mistakes_are_the_surest_wrong_answers_of_the_best_run(trained: Store) -> None:
    """They are wrong, in order of confidence, none surer is left out, and the others' answers are right."""
    report = gather(trained, ["ears", "all"], "test", None, "", "")
    best = report.best
    wrong = best.probs.argmax(1) != best.label
    sure = sorted(best.probs.max(1)[wrong], reverse=True)[: len(report.mistakes)]
    assert [m.confidence for m in report.mistakes] == pytest.approx(sure)
    resolved = trained.labels.resolve("gold")
    assert all(m.label == resolved[m.key] != m.said for m in report.mistakes)


def test_layers_are_counted_and_compared_with_people(trained: Store) -> None:
    """Gold comes before the round over it; its pseudo-labels are checked where the labels know the clip."""
    gold, round1 = gather(trained, ["again"], "test", "gold", "", "").layers
    assert (gold.name, round1.name) == ("gold", "round1")
    assert gold.pseudo == dict.fromkeys(gold.human, 0)
    layer = trained.labels["round1"]
    assert sum(round1.pseudo.values()) == int(layer.kept.sum()) > 0
    assert round1.dropped == int((~layer.kept).sum())
    assert round1.precision is None  # gold knows nothing of unlabelled clips
    assert "typed $ears" in gather(trained, ["ears"], "test", "gold", "", "").runs[0].command


def test_intervals_are_those_of_the_scores(trained: Store, page: Path) -> None:
    """The interval of each run is that of its scores, and the page shows those of WAF and UAR."""
    shown = page.read_text("utf-8")
    for run in gather(trained, ["ears", "all"], "test", None, "", "").runs:
        assert run.interval == run.scores.intervals["waf"]
        for name in ("waf", "uar"):
            low, high = run.scores.intervals[name]
            assert f"{low:.2f}\N{EN DASH}{high:.2f}" in shown


def test_runs_of_other_classes_are_refused_before_anything_is_on_record(trained: Store) -> None:
    """Figures put classes side by side; a class that one run does not know has no place there."""
    store = Store.open(trained.url)
    two = {key: str(store.labels["gold"][key]) for key in store.labels["gold"].keys}
    few = {key: label for key, label in two.items() if label != "happy"}
    store.labels.add(LabelLayer.human("few", ("angry", "sad"), few))
    train(store, "mlp", labels="few", level="utt", folds=2, settings=Settings(epochs=1), name="few")
    before = store.commit
    with pytest.raises(ZooError, match="few knows other classes than ears"):
        gather(store, ["ears", "few"], "test", "few", "", "")
    assert store.commit == before


def test_judging_by_test_labels_is_on_record(trained: Store) -> None:
    """A report puts each score it makes on record once, with the command; the same again adds nothing."""
    gather(trained, ["ears", "all"], "train", None, "", "", command="typed")
    commit = trained.commit
    record = list_evaluations(trained, "ears")[-1]
    assert (record.attrs["split"], next(iter(trained.log(1))).command) == ("train", "typed")
    report = gather(trained, ["ears", "all"], "train", None, "", "")
    assert (trained.commit, report.commit) == (commit, commit)
    assert record.json("scores.json")["scores"]["waf"] == report.runs[0].scores.waf
    evaluated = evaluate(trained, "ears", "train").record
    gather(trained, ["ears"], "train", None, "", "")
    assert list_evaluations(trained, "ears")[-1].name == evaluated


def test_reliability_bins_hold_every_clip() -> None:
    """Shares sum to one, empty bins have no point, and a run that is always right is right in every bin."""
    probs = np.array([[0.95, 0.05], [0.65, 0.35], [0.62, 0.38], [0.2, 0.8]])
    sure, right, share = _reliability(np.array([0, 0, 1, 1]), probs, np.linspace(0, 1, 11))
    assert share.sum() == pytest.approx(1)
    assert sure == pytest.approx([0.635, 0.8, 0.95])
    assert right == pytest.approx([0.5, 1, 1])


def test_mean_curve_ends_where_most_folds_have_ended() -> None:
    """The mean is over running folds and stops when fewer than half are left."""
    mean = _running_mean([np.array([0.0, 1.0]), np.array([1.0, 1.0, 0.5]), np.array([0.5, 1.0, 0.7, 0.9])])
    assert mean == pytest.approx([0.5, 1.0, 0.6])


def test_odd_reports_are_drawn(tmp_path: Path) -> None:
    """Many classes and runs, a class without clips, one run without curves: a page each, no warning."""
    many = tuple(f"class{i}" for i in range(12))
    layer = LayerView(name="gold", human=dict.fromkeys(many, 3), pseudo=dict.fromkeys(many, 0), dropped=0)
    wide = make_report((make_run("wide", many),), layers=(layer,))
    assert write_page(wide, tmp_path / "many").is_file()
    runs = tuple(make_run(f"run-{i}", ("a", "b"), seed=i) for i in range(8))
    plan = _plan(make_report(runs))
    assert sum(name.startswith("confusion-") for name in plan) == len(runs)
    for name in ("scores", "per-class-f1", "reliability", "learning-curves"):
        assert to_svg(plan[name](PAGE)).count("run-7") == 1
    lonely = make_run("one", ("a", "b", "c"), n=2, folds=0)
    assert "Learning curves" not in write_page(make_report((lonely,)), tmp_path / "one").read_text("utf-8")


@pytest.mark.parametrize(
    ("runs", "options", "error", "words"),
    [
        (["eras"], {}, UnknownName, "did you mean 'ears'"),
        (["ears"], {"split": "tset"}, UnknownName, "did you mean 'test'"),
        (["ears"], {"labels": "golden"}, UnknownName, "did you mean 'gold'"),
        (["ears"], {"split": "unlabeled"}, ZooError, "no clip of split 'unlabeled' has a human label"),
        (["ears", "ears"], {}, ZooError, "twice"),
        ([], {}, ZooError, "needs runs"),
    ],
)
def test_what_cannot_be_reported_is_said(
    trained: Store, tmp_path: Path, runs: list[str], options: dict[str, str], error: type, words: str
) -> None:
    """Wrong names get a suggestion; nothing is written."""
    with pytest.raises(error, match=words):
        write_report(trained, runs, tmp_path / "report", **options)
    assert not (tmp_path / "report").exists()


def test_missing_packages_are_named(trained: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the extra `report` the message says how to get it."""
    monkeypatch.setattr("mer_zoo.report.write.find_spec", lambda _name: None)
    with pytest.raises(ZooError, match=r"jinja2.*mer-fs\[report\]"):
        write_report(trained, ["ears"], tmp_path)
