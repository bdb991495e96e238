"""`mer-fs extract`, `mer-fs plugins`, `mer-fs quarantine`."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from mer_cli.fs import main
from mer_featurestore import Clip, Store
from mer_plugins.samples import sample_clips
from support import checkpoints

THIRD_PARTY = Path(__file__).parents[1] / "plugins" / "third_party"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store of four voices, one of them broken, and four texts."""
    store = Store.create(tmp_path / "store")
    store.clips.add(sample_clips(tmp_path, "text"))
    store.clips.add(sample_clips(tmp_path, "audio"))
    (tmp_path / "audio3.wav").write_bytes(b"")
    return store


def mer_fs(store: Store, *words: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, [*words, "--store", store.url])


def process(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run Python code in a fresh process."""
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | env, check=False
    )


def test_whole_frames(store: Store, tmp_path: Path) -> None:
    """`--no-face-crop` is the option of that meaning; where there are no faces to crop it is refused."""
    store.clips.add(sample_clips(tmp_path, "video"))
    plan = ("extract", "--plugin", "face-pixels", "--dry-run", "--json")
    whole = json.loads(mer_fs(store, *plan, "--no-face-crop").stdout)
    assert whole["spaces"] == json.loads(mer_fs(store, *plan, "--option", "face=none").stdout)["spaces"]
    assert whole["spaces"] != json.loads(mer_fs(store, *plan).stdout)["spaces"]
    both = mer_fs(store, *plan, "--no-face-crop", "--option", "face=center")
    assert "contradict each other" in json.loads(both.stdout)["error"]
    voice = mer_fs(store, "extract", "--plugin", "prosody", "--no-face-crop")
    assert "no option of prosody named 'face'" in voice.stderr


def test_extract_and_again(store: Store) -> None:
    """The first run fills the space and tells of failures; the second says that there is nothing to do."""
    first = mer_fs(store, "extract", "--plugin", "prosody", "--level", "utt,frame")
    assert first.exit_code == 0, first.output
    assert "3 clips into prosody-UTT, prosody-FRA." in first.stdout
    assert "1 failed and are in quarantine: mer-fs quarantine" in first.stdout
    assert "clips/s" in first.stdout
    assert "bottleneck: " in first.stdout
    second = mer_fs(store, "extract", "--plugin", "prosody", "--level", "utt,frame")
    assert second.stdout.startswith(
        "Nothing to do: 3 clips in prosody-UTT, prosody-FRA already (1 in quarantine"
    )
    store.refresh()
    assert len(store.features["prosody-UTT"]) == 3


def test_a_plugin_with_its_model(store: Store, tmp_path: Path) -> None:
    """`NAME:PATH` is `NAME --model PATH`; both at once are refused."""
    model = checkpoints.bert(tmp_path / "bert")
    assert mer_fs(store, "extract", "--plugin", f"hf-text:{model}").exit_code == 0
    done = mer_fs(store, "extract", "--plugin", "hf-text", "--model", str(model))
    assert done.stdout.startswith("Nothing to do: 4 clips in hf-text-UTT already")
    both = mer_fs(store, "extract", "--plugin", f"hf-text:{model}", "--model", "x")
    assert both.exit_code == 2
    assert "say one" in both.stderr


def test_a_run_in_which_every_clip_fails_says_so(store: Store, tmp_path: Path) -> None:
    """The clips are in quarantine with their reasons, and the exit code stops a script."""
    (tmp_path / "broken.wav").write_bytes(b"no sound")
    store.clips.add([Clip(key="broken2", audio=str(tmp_path / "broken.wav"))])
    done = mer_fs(store, "extract", "--plugin", "prosody", "--keys", "broken2")
    assert done.exit_code == 1
    assert "1 failed and are in quarantine" in done.stdout


def test_the_second_run_is_quick_and_light(store: Store, tmp_path: Path) -> None:
    """With nothing to do, neither weights nor heavy packages are loaded, real encoder or not."""
    model = checkpoints.bert(tmp_path / "bert")
    assert mer_fs(store, "extract", "--plugin", "hf-text", "--model", str(model)).exit_code == 0
    code = f"""
import sys
from mer_cli.fs import main
try:
    main(["extract", "--plugin", "hf-text", "--model", {str(model)!r}, "--store", {store.url!r}])
except SystemExit as stop:
    assert not stop.code
print([name for name in "torch transformers sklearn av cv2".split() if name in sys.modules])
"""
    started = time.perf_counter()
    done = process(code)
    assert "Nothing to do: 4 clips in hf-text-UTT already" in done.stdout
    assert done.stdout.rstrip().endswith("[]")
    assert time.perf_counter() - started < 6  # under 1 s on a machine of one's own


def test_json(store: Store) -> None:
    """With --json there is one document and nothing else on stdout."""
    report = json.loads(mer_fs(store, "extract", "--plugin", "prosody", "--json").stdout)
    assert (report["done"], report["spaces"]) == (3, ["prosody-UTT"])
    assert "is empty" in report["failed"]["audio3"]
    found = json.loads(mer_fs(store, "quarantine", "--json").stdout)
    assert found == {"prosody-UTT": report["failed"]}


def test_dry_run(store: Store) -> None:
    """A dry run shows the plan with an estimate and writes nothing."""
    shown = mer_fs(store, "extract", "--plugin", "prosody", "--level", "utt,frame", "--dry-run")
    assert shown.exit_code == 0
    assert "4 of 8 clips to do" in shown.stdout
    assert "4 clips without audio" in shown.stdout
    assert "prosody-FRA: rows of 54 float16, about " in shown.stdout
    plan = json.loads(mer_fs(store, "extract", "--plugin", "prosody", "--dry-run", "--json").stdout)
    assert plan["bytes"] == {"prosody-UTT": 4 * 167 * 4}
    assert plan["spaces"]["prosody-UTT"]["made_by"]["plugin"] == "prosody"
    store.refresh()
    assert not store.features


def test_selection_and_options(store: Store, tmp_path: Path) -> None:
    """Keys come from the command line or a file; options, names and types are passed on."""
    listed = tmp_path / "keys.txt"
    listed.write_text("\ufefftext1 \r\n\r\ntext2\n", "utf-8")  # as spreadsheets write it
    words = [
        "extract",
        "--plugin",
        "char-ngrams",
        "--as",
        "chars",
        "--option",
        "dims=64",
        "--dtype",
        "float16",
    ]
    assert mer_fs(store, *words, "--keys", f"@{listed}").exit_code == 0
    assert mer_fs(store, *words, "--keys", "text0", "--backend", "hdf5", "--workers", "1").exit_code == 0
    store.refresh()
    space = store.features["chars-UTT"]
    assert sorted(space.keys()) == ["text0", "text1", "text2"]
    assert space.spec.row_shape == (64,)
    assert space.spec.dtype == "float16"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--plugin", "prosdy"], "no extractor named 'prosdy'; did you mean 'prosody'?"),
        (["--plugin", "prosody", "--level", "frames"], "no level named 'frames'; did you mean 'frame'?"),
        (
            ["--plugin", "prosody", "--option", "pol=mean"],
            "no option of prosody named 'pol'; did you mean 'pool'",
        ),
        (["--plugin", "prosody", "--split", "nope"], "no split named 'nope'"),
        (["--plugin", "prosody", "--keys", "nope"], "no clip named 'nope'"),
        (["--plugin", "face-pixels"], "none of the 8 selected clips has video"),
        (["--plugin", "whisper", "--model", "./nowhere"], "there is no checkpoint folder ./nowhere"),
        (["--plugin", "prosody", "--strict", "--keys", "audio3"], "clip audio3 failed: "),
        (["--plugin", "prosody", "--keys", "@absent.txt"], "No such file or directory: absent.txt"),
    ],
)
def test_mistakes_are_one_line(store: Store, words: list[str], message: str) -> None:
    """Each mistake is one line on stderr that says what to do, exit code 1, and nothing stored."""
    result = mer_fs(store, "extract", *words)
    assert result.exit_code == 1
    assert message in result.stderr
    assert result.stderr.startswith("Error: ")
    assert result.stderr.count("\n") == 1
    store.refresh()
    assert not store.features


def test_another_configuration_is_shown_side_by_side(store: Store) -> None:
    """Appending with other settings is refused with the fields that differ and the way out."""
    mer_fs(store, "extract", "--plugin", "prosody")
    refused = mer_fs(store, "extract", "--plugin", "prosody", "--option", "deltas=1")
    assert refused.exit_code == 1
    assert "made_by.deltas: 2 | 1" in refused.stderr
    assert "--as NAME" in refused.stderr


def test_quarantine(store: Store) -> None:
    """Failures are listed with reasons, by space; a misspelt space is corrected."""
    assert "Nothing is in quarantine." in mer_fs(store, "quarantine").stdout
    mer_fs(store, "extract", "--plugin", "prosody")
    assert "audio3" in mer_fs(store, "quarantine").stdout
    assert "is empty" in mer_fs(store, "quarantine", "prosody-UTT").stdout
    assert "did you mean 'prosody-UTT'" in mer_fs(store, "quarantine", "prosody-UT").stderr


def test_plugins() -> None:
    """Every extractor is listed with what it reads, gives and needs."""
    shown = CliRunner().invoke(main, ["plugins"])
    assert shown.exit_code == 0
    for name in ("prosody", "face-pixels", "char-ngrams", "whisper", "hf-text", "face-expression"):
        assert name in shown.stdout
    rows = {row["name"]: row for row in json.loads(CliRunner().invoke(main, ["plugins", "--json"]).stdout)}
    assert rows["prosody"]["levels"] == ["utt", "frame"]
    assert rows["face-pixels"]["requires"] == ["cv2"]
    assert rows["face-expression"]["needs_model"] is True


def test_missing_packages_are_shown_with_the_install_hint(tmp_path: Path) -> None:
    """Without OpenCV the face extractors say how to get it, and using one is a clear error."""
    blocked = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "cv2":
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Block())
from mer_cli.fs import main
main(sys.argv[1:] or {words})
"""
    listed = process(blocked.format(words=["plugins"]))
    assert "missing cv2: pip install 'mer-fs[video]'" in listed.stdout
    Store.create(tmp_path / "s").clips.add([Clip(key="a", video="x.mp4")])
    words = ["extract", "--plugin", "face-pixels", "--store", str(tmp_path / "s")]
    used = process(blocked.format(words=words))
    assert used.returncode == 1
    assert used.stderr == "Error: face-pixels needs cv2, not installed here; pip install 'mer-fs[video]'\n"


def test_a_broken_plugin_is_warned_of_and_can_be_left_out() -> None:
    """A broken plugin is one warning on stderr; --no-plugin silences it; the rest works."""
    code = "from mer_cli.fs import main; main({words})"
    path = str(THIRD_PARTY / "broken")
    warned = process(code.format(words=["plugins"]), PYTHONPATH=path)
    assert warned.returncode == 0
    assert (
        "Warning: plugin 'broken-encoder' (mer-broken 1.2) is skipped: ModuleNotFoundError" in warned.stderr
    )
    assert "prosody" in warned.stdout
    silent = process(code.format(words=["plugins", "--no-plugin", "broken-encoder"]), PYTHONPATH=path)
    assert (silent.returncode, silent.stderr) == (0, "")


def test_a_clash_names_both_owners() -> None:
    """A name claimed twice is a warning in the list and an error when it is used."""
    code = "from mer_cli.fs import main; main({words})"
    path = os.pathsep.join(str(THIRD_PARTY / name) for name in ("good", "clash"))
    warned = process(code.format(words=["plugins"]), PYTHONPATH=path)
    assert "'prosody' is offered by clash-encoder (mer-clash 1.2) and mer-extractors (mer-fs" in warned.stderr
    assert "loudness" in warned.stdout
