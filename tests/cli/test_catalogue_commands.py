"""ingest, clips, duplicates, labels, import and export as typed."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from mer_cli.fs import main
from mer_featurestore import Store

Run = Callable[..., Result]

CATALOGUE = """key,text,speaker,split,emotion,take
a,hello,s1,train,happy,1
b,bye,s1,train,sad,1
c,hello,s2,test,happy,2
d,hm,s2,unlabeled,,3
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Return a function that runs mer-fs in a folder with a store and clips.csv."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    Store.create("mer-store")
    Path("clips.csv").write_text(CATALOGUE)

    def call(*args: str, ok: bool = True) -> Result:
        result = CliRunner().invoke(main, list(args), catch_exceptions=False)
        assert (result.exit_code == 0) == ok, result.output
        return result

    return call


def load(run: Run, *args: str) -> Any:
    """Return what a command prints with --json."""
    return json.loads(run(*args, "--json").output)


def test_ingest_prints_what_it_did(run: Run) -> None:
    """Counts of clips and labels, unused columns, the commit; the journal knows the command."""
    output = run("ingest", "clips.csv").output
    assert "added 4 clips (0 unchanged, 0 updated)" in output
    assert "added 3 labels in layer 'gold': happy 2, sad 1" in output
    assert "columns not used: take" in output
    assert "commit 1" in output
    assert "0 clips (4 unchanged" in run("ingest", "clips.csv").output
    assert Store.open("mer-store").commit == 1


def test_ingest_options(run: Run) -> None:
    """Dry run, hidden labels, class order, other columns: all reach the library."""
    assert "nothing was written" in run("ingest", "clips.csv", "--dry-run").output
    found = load(
        run, "ingest", "clips.csv", "--labels-as", "truth", "--label-split", "test", "--classes", "sad,happy",
        "--column", "text=take", "--corpus", "x", "--no-hash",
    )  # fmt: skip
    assert found["labels"] == {"layer": "truth", "added": True, "counts": {"sad": 0, "happy": 1}}
    clip = Store.open("mer-store").clips["c"]
    assert (clip.text, clip.corpus, clip.content_hash) == ("2", "x", "")
    Path("clips.csv").write_text(CATALOGUE.replace("bye", "see you"))
    assert (
        "take the new rows"
        in run("ingest", "clips.csv", "--no-labels", "--column", "text=text", ok=False).output
    )
    assert load(run, "ingest", "clips.csv", "--no-labels", "--update")["clips"]["updated"] == 4


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["ingest", "none.csv"], "Error: no such file: none.csv; check the path"),
        (["ingest", "clips.csv", "--classes", "happy"], "line 3, column emotion: label 'sad' is not one of"),
        (["ingest", "clips.csv", "--column", "text"], "'text' is not of the form FIELD=COLUMN"),
        (["ingest", "clips.csv", "--classes", "a,,b"], "has an empty name"),
        (["ingest", "clips.csv", "--delimiter", "::"], "is not one character"),
        (["ingest", "clips.csv", "--store", "nowhere"], "mer-fs init"),
        (["clips", "--split", "tran"], "no split named 'tran'"),
        (["labels", "show", "gold"], "no label layer named 'gold'; there are none yet"),
        (["labels", "--store", "x", "list"], "put --store and --at behind the command"),
        (["labels", "shwo"], "did you mean 'show'"),
        (["labels", "import", "clips.csv", "--as", "gold"], "clip 'a' is not in the catalogue"),
        (["import", "npz", "x.npz"], "say what the features are of: --modality"),
        (["import", "mmsa", "x.pkl"], "no such file: x.pkl"),
        (["export", "x-UTT", "--to", "out"], "no feature space named 'x-UTT'"),
    ],
)
def test_mistakes_are_one_line(run: Run, args: list[str], message: str) -> None:
    """What, where and the remedy; a non-zero exit; the store untouched."""
    result = run(*args, ok=False)
    assert message in result.output
    assert "Traceback" not in result.output
    assert Store.open("mer-store").commit == 0


def test_clips_counts_and_lists(run: Run) -> None:
    """By split, modality and speaker; or a line each."""
    run("ingest", "clips.csv")
    counts = load(run, "clips")
    assert (counts["clips"], counts["splits"]) == (4, {"train": 2, "test": 1, "unlabeled": 1})
    assert (counts["modalities"]["text"], counts["speakers"]) == (4, {"s1": 2, "s2": 2})
    assert "s1       train" in run("clips").output
    assert run("clips", "--list", "--split", "train").output.splitlines() == [
        "a\t\ttrain\ts1\t\thello",
        "b\t\ttrain\ts1\t\tbye",
    ]
    assert load(run, "clips", "--list")[0]["duration"] is None


def test_duplicates_are_listed(run: Run) -> None:
    """Clips with the same content, and how many could not be compared."""
    run("ingest", "clips.csv")
    assert [[c["key"] for c in g] for g in load(run, "duplicates")["groups"]] == [["a", "c"]]
    assert "a    " in run("duplicates").output
    Path("more.csv").write_text("key,text\nz,other\n")
    run("ingest", "more.csv", "--no-hash")
    assert "not compared: 1 clip without a content hash" in run("duplicates").output


@pytest.fixture
def layers(run: Run) -> Run:
    """Return the runner, with the layers gold and round1 (soft, over gold) in the store."""
    run("ingest", "clips.csv", "--label-split", "train")
    Path("round1.csv").write_text(
        "key,p_happy,p_sad,source,kept,reason,vote_agt\n"
        "c,0.9,0.1,pseudo,1,,happy\nd,0.4,0.6,pseudo,0,below 0.9,\n"
    )
    run("labels", "import", "round1.csv", "--as", "round1", "--over", "gold", "--classes", "happy,sad")
    return run


def test_labels_alone_lists_them(layers: Run) -> None:
    """With counts, parents and what made them; `labels list` says the same, and so does --json."""
    alone = layers("labels").output
    assert alone == layers("labels", "list").output
    assert "labels/gold" in alone
    assert "imported_from=round1.csv" in alone
    facts = load(layers, "labels")
    assert [(f["name"], f["rows"], f["kept"]) for f in facts] == [("gold", 2, 2), ("round1", 2, 1)]
    assert load(layers, "labels", "list", "--at", "1")[-1]["name"] == "gold"


def test_labels_show(layers: Run) -> None:
    """The layer's own rows, or the resolved ones with the layer that decided."""
    rows = load(layers, "labels", "show", "round1")["rows"]
    assert rows[1] == {
        "key": "d", "label": "sad", "confidence": 0.6, "source": "pseudo", "kept": False,
        "reason": "below 0.9",
    }  # fmt: skip
    rows = load(layers, "labels", "show", "round1", "--resolved")["rows"]
    assert [(r["key"], r["layer"]) for r in rows] == [("a", "gold"), ("b", "gold"), ("c", "round1")]
    assert "… 1 more" in layers("labels", "show", "gold", "-n", "1").output


def test_labels_diff(layers: Run) -> None:
    """Flips, additions and removals per class, and which clips."""
    Path("round2.csv").write_text("key,label,source\nc,sad,pseudo\nd,sad,pseudo\n")
    layers("labels", "import", "round2.csv", "--as", "round2", "--over", "gold", "--classes", "happy,sad")
    found = load(layers, "labels", "diff", "round1", "round2")
    assert (found["flips"], found["added"], found["removed"]) == ({"c": ["happy", "sad"]}, {"d": "sad"}, {})
    output = layers("labels", "diff", "round1", "round2", "--keys").output
    assert "round1 → round2: 1 flip, 1 added, 0 removed, 2 unchanged" in output
    assert "c    happy   sad" in output
    assert "0 flips" in layers("labels", "diff", "gold", "gold").output


def test_labels_blame(layers: Run) -> None:
    """Which layer decided, the votes, and what was dropped."""
    output = layers("labels", "blame", "c").output
    assert "c under round1: happy (decided by round1)" in output
    assert "agt voted happy" in output
    assert load(layers, "labels", "blame", "d")["label"] is None
    assert load(layers, "labels", "blame", "a", "--layer", "gold")["decided_by"] == "gold"


def test_labels_stats(layers: Run) -> None:
    """Counts, entropy, agreement; JSON has null where nothing is known."""
    output = layers("labels", "stats", "round1").output
    assert "round1: 1 of 2 clips kept (1 pseudo)" in output
    assert "below 0.9" in output
    assert load(layers, "labels", "stats", "gold")["unanimous"] is None


def test_labels_export(layers: Run) -> None:
    """CSV comes back as the same layer; MERTools' .npz too."""
    layers("labels", "export", "round1", "--to", "out/r.csv")
    layers("labels", "import", "out/r.csv", "--as", "again", "--classes", "happy,sad")
    store = Store.open("mer-store")
    assert np.array_equal(store.labels["again"].probs, store.labels["round1"].probs)
    assert load(layers, "labels", "export", "round1", "--to", "l.npz")["rows"] == 3
    layers("labels", "import", "l.npz", "--as", "npz")
    assert Store.open("mer-store").labels["npz"].counts() == {"happy": 2, "sad": 1}


def test_import_and_export_of_features(run: Run) -> None:
    """A MERTools folder in, and out again for one split."""
    run("ingest", "clips.csv")
    Path("enc-UTT").mkdir()
    for i, key in enumerate("abcz"):
        np.save(f"enc-UTT/{key}.npy", np.full(3, i, np.float32))
    output = run("import", "mertools", "enc-UTT", "--modality", "audio", "--ignore-unknown").output
    assert "enc-UTT: 3 clips added, 0 there already, 1 not in the catalogue left out" in output
    written = load(run, "export", "enc-UTT", "--to", "out", "--split", "train")
    assert written == ["out/enc-UTT"]
    assert sorted(p.name for p in Path("out/enc-UTT").iterdir()) == ["a.npy", "b.npy"]
    run("export", "enc-UTT", "--to", "out", "--format", "npz")
    run("import", "npz", "out/enc-UTT.npz", "--as", "copy", "--modality", "audio")
    assert "copy-UTT" in Store.open("mer-store").features


def test_import_of_an_mmsa_file(run: Run) -> None:
    """Spaces, clips and labels in one go; quarantined clips are shown with the reason."""
    part = {
        "id": ["v$_$1", "v$_$2"],
        "audio": np.array([[[1.0, 2.0]], [[np.inf, 0]]]),
        "annotations": ["Positive", "Negative"],
    }
    Path("f.pkl").write_bytes(pickle.dumps({"train": part}))
    output = run("import", "mmsa", "f.pkl", "--as", "sims", "--create-clips", "--labels-as", "sims").output
    assert "sims-audio-FRA: 1 clip added, 0 there already, 1 quarantined" in output
    assert "v$_$2: " in output
    assert Store.open("mer-store").labels["sims"].counts() == {"Negative": 1, "Positive": 1}


def test_ingest_reads_corpus_folders(run: Run) -> None:
    """--layout takes a folder, tells what it found, merges classes; options for CSV files do not fit."""
    folder = Path("mosei/Raw/v")
    folder.mkdir(parents=True)
    for clip in "012":
        (folder / f"{clip}.mp4").write_text(clip)
    rows = "v,0,Hi,Positive,train\nv,1,Hm,Neutral,train\nv,2,No,Negative,test\n"
    Path("mosei/label.csv").write_text("video_id,clip_id,text,annotation,mode\n" + rows)
    layout = ("ingest", "mosei", "--layout", "mosei")
    told = run(*layout, "--dry-run").output
    assert "label.csv: 3 clips, classes from column annotation" in told
    found = load(run, *layout, "--merge", "Neutral=Negative", "--label-split", "train")
    assert found["labels"]["counts"] == {"Negative": 1, "Positive": 1}
    assert found["clips"]["added"] == 3
    assert any("label.csv" in notice for notice in found["notices"])
    clip = Store.open("mer-store").clips["v$_$2"]
    assert (clip.corpus, clip.split, clip.group) == ("mosei", "test", "v")
    assert "did you mean 'mosei'" in run("ingest", "mosei", "--layout", "mosi", ok=False).output
    assert "--merge needs --layout" in run("ingest", "clips.csv", "--merge", "a=b", ok=False).output
    assert "--delimiter goes with a CSV file" in run(*layout, "--delimiter", "tab", ok=False).output
    assert "--media-root goes with a CSV file" in run(*layout, "--media-root", ".", ok=False).output
