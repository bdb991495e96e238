import importlib
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest

from mer_featurestore.errors import UnknownName
from mer_plugins import hookspecs, host
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.errors import PluginError
from mer_plugins.testing import ExtractorTests
from mer_zoo.ballots import Ballot

from .conftest import THIRD_PARTY

BUILT_IN = ["prosody", "face-pixels", "char-ngrams", "whisper", "hf-text", "face-expression"]


def test_builtins_come_through_the_entry_point() -> None:
    """The built-in extractors are offered by an entry point of this distribution, like anybody's."""
    offers = host.host().offers("mer_extractors")
    assert set(BUILT_IN) <= set(offers)
    assert {offers[name][0].plugin for name in BUILT_IN} == {"mer-extractors"}
    assert offers["prosody"][0].origin.startswith("mer-fs ")
    assert not host.host().broken
    assert not host.clashes()


def test_models_come_through_the_same_door() -> None:
    """Fusion models are offered through the sister hook."""
    assert {"agt", "attention"} <= set(host.model_cards())
    assert host.find_model("agt").name == "agt"


def test_hooks_are_documented() -> None:
    """Every hook has a docstring that says what to return."""
    hooks = [f for name, f in vars(hookspecs).items() if name.startswith("mer_")]
    assert len(hooks) >= 2
    assert all(hook.__doc__ and hook.__doc__.startswith("Return") for hook in hooks)


@pytest.mark.parametrize("name", sorted(host.extractor_cards()))
def test_every_card_is_complete(name: str) -> None:
    """Each registered card says all that `mer-fs plugins` and the pipeline need."""
    card = host.extractor_cards()[name]
    assert isinstance(card, ExtractorCard)
    assert card.name == name
    assert card.summary
    assert card.levels
    assert bool(card.requires) <= bool(card.install)
    assert all(default and text for default, text in card.options.values())
    row = next(row for row in host.describe_extractors() if row["name"] == name)
    assert row["missing"] == host.missing_packages(card)


def test_listing_is_light() -> None:
    """Listing every extractor imports none of the heavy packages."""
    heavy = "torch transformers sklearn av cv2 soxr scipy pandas zarr h5py huggingface_hub rich"
    code = f"""
import sys
from mer_plugins.host import describe_extractors
assert describe_extractors()
print([name for name in "{heavy}".split() if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_third_party_plugin_is_found(install: Callable[..., None]) -> None:
    """An installed distribution with an entry point is all it takes."""
    install("good")
    card = host.find_extractor("loudness")
    assert card.summary == "loudness every tenth of a second"
    row = next(row for row in host.describe_extractors() if row["name"] == "loudness")
    assert (row["plugin"], row["origin"]) == ("good-encoder", "mer-good 1.2")


def test_votes_and_selections_come_from_plugins(install: Callable[..., None]) -> None:
    """Strategies of a third party stand beside the built-in ones, and a round can use them."""
    from mer_zoo.strategies import complete, find_selection, find_vote, selections, votes

    assert host.host().offers("mer_votes")["soft"][0].plugin == "mer-models"
    install("voting")
    assert {"first", "soft", "dawid-skene"} <= set(votes())
    assert {"everything", "threshold"} <= set(selections())
    probs = np.array([[[0.9, 0.1]], [[0.0, 1.0]]], np.float32)
    ballot = Ballot(("a", "b"), ("x", "y"), ("k",), probs, np.ones((2, 1), np.bool_))
    verdict = find_vote("first").function(ballot)
    assert verdict.label.tolist() == [0]
    card = find_selection("everything")
    assert card.function(ballot, verdict, **complete(card, {"but": "k"})).reason == ("left out",)


@pytest.mark.parametrize(
    ("name", "reason"), [("broken", "package_that_nobody_has"), ("failing", "the licence has expired")]
)
def test_a_broken_plugin_is_named_and_skipped(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch, name: str, reason: str
) -> None:
    """One that cannot be imported, or whose hook raises, is reported with the way to silence it."""
    install(name, "good")
    assert {"loudness", "prosody"} <= set(host.extractor_cards())
    (broken,) = host.host().broken
    assert f"plugin '{name}-encoder' (mer-{name} 1.2) is skipped" in str(broken)
    assert reason in str(broken)
    assert f"--no-plugin {name}-encoder" in str(broken)
    with pytest.raises(UnknownName, match=f"{name}-encoder"):
        host.find_extractor("its-extractor")
    monkeypatch.setenv("MER_DISABLE_PLUGINS", f"{name}-encoder, nobody")
    assert "loudness" in host.extractor_cards()
    assert not host.host().broken


def test_a_plugin_can_be_disabled(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """A disabled plugin is not even imported."""
    install("good")
    monkeypatch.setenv("MER_DISABLE_PLUGINS", "good-encoder")
    assert "loudness" not in host.extractor_cards()
    assert "mer_good" not in sys.modules


def test_a_name_claimed_twice_belongs_to_nobody(
    install: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clash is refused with both owners named; everything else goes on, and disabling one resolves it."""
    install("good", "clash")
    assert "prosody" not in host.extractor_cards()
    assert "loudness" in host.extractor_cards()
    assert list(host.clashes()) == ["prosody"]
    with pytest.raises(PluginError, match=r"'clash-encoder' \(mer-clash 1.2\) and plugin 'mer-extractors'"):
        host.find_extractor("prosody")
    monkeypatch.setenv("MER_DISABLE_PLUGINS", "clash-encoder")
    assert host.find_extractor("prosody").summary != "not the real one"


def test_unknown_extractor() -> None:
    """A misspelt name is answered with the nearest one."""
    with pytest.raises(UnknownName, match="did you mean 'prosody'"):
        host.find_extractor("prosdoy")


def test_missing_package() -> None:
    """An extractor whose packages are missing says which, and how to get them."""
    needs = ("json", "nobody_has_it")
    card = ExtractorCard(
        name="x",
        modality="audio",
        levels=("utt",),
        summary="x",
        build=dict,
        requires=needs,
        install="pip install nobody",
    )
    assert host.missing_packages(card) == ["nobody_has_it"]
    with pytest.raises(PluginError, match="x needs nobody_has_it, not installed here; pip install nobody"):
        host.make_extractor(card, Options())


@pytest.mark.parametrize(
    ("plugin", "options", "message"),
    [
        ("prosody", Options(extra={"spektrum": "mfcc"}), "no option of prosody named .* mean 'spectrum'"),
        ("prosody", Options(extra={"spectrum": "mfc"}), "did you mean 'mfcc'"),
        ("prosody", Options(extra={"deltas": "3"}), "a whole number from 0 to 2"),
        ("prosody", Options(extra={"f0": "high"}), "a range like"),
        ("prosody", Options(model="x"), "no checkpoint to choose"),
        ("prosody", Options(layers="2"), "no layers to choose from"),
        ("prosody", Options(revision="main"), "no checkpoint to pin"),
        ("face-pixels", Options(extra={"face": "centre"}), "did you mean 'center'"),
        ("face-pixels", Options(extra={"fps": "0"}), "a number from 0.1 to 60"),
        ("face-expression", Options(), "needs a checkpoint; name its folder with --model"),
        ("whisper", Options(model="/no/such/folder"), "there is no checkpoint folder /no/such/folder"),
    ],
)  # fmt: skip
def test_what_makes_no_sense_is_refused(plugin: str, options: Options, message: str) -> None:
    """Options an extractor does not have, or cannot mean, are errors with the remedy."""
    with pytest.raises((UnknownName, PluginError), match=message):
        host.make_extractor(host.find_extractor(plugin), options)


class TestThirdParty(ExtractorTests):
    """The fake third party's extractor passes the conformance kit."""

    @pytest.fixture(scope="class", autouse=True)
    @classmethod
    def found(cls) -> None:
        """Import it from where it lies."""
        sys.path.insert(0, str(THIRD_PARTY / "good"))
        cls.card = importlib.import_module("mer_good").CARD
        sys.path.remove(str(THIRD_PARTY / "good"))
        del sys.modules["mer_good"]


def test_the_docs_show_the_plugin_that_is_tested() -> None:
    """The tutorial's code is, letter by letter, the third party's file above."""
    page = (THIRD_PARTY.parents[2] / "docs" / "write-a-plugin.md").read_text(encoding="utf-8")
    code = page.split("```python\n", 1)[1].split("```", 1)[0]
    assert code == (THIRD_PARTY / "good" / "mer_good.py").read_text(encoding="utf-8")
