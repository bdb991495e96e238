"""The demo: real command lines, one after the other, each printed before it is run.

Nothing here does what a command does not do; pasting the printed lines into a shell does the same.
"""

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from mer_cli.lines import run_line

CLIPS, THRESHOLD = 450, 0.5
CLAIM = (
    "The corpus is synthetic: drawn faces, babbled speech and sentences from templates. "
    "It shows that the machinery works and proves nothing about emotion recognition."
)
_CLASSES = "neutral,angry,happy,sad,worried,surprise"
_JUDGED = ("supervised", "after-round1", "after-round2")
_UNIMODAL = ("audio-only", "video-only")


@dataclass(frozen=True, slots=True)
class Step:
    """One command of the demo.

    Attributes:
        title: What it is for, for people.
        argv: The command line.
        makes: What is in the store once it is done (`kind/name`, or `store` itself); empty for a command that
            sees for itself what is left to do.
    """

    title: str
    argv: tuple[str, ...]
    makes: str = ""

    @property
    def line(self) -> str:
        """The command line as it is typed."""
        return shlex.join(self.argv)


@dataclass(frozen=True, slots=True)
class Plan:
    """What a demo does, and where.

    Attributes:
        folder: Gets `corpus/`, `store/` and `report/`.
        clips: Sound clips in the corpus.
        epochs: Of each training at most; None leaves it to `mer-zoo train`.
        seed: Of the corpus.
        threshold: Of the votes; three members that differ are seldom above 0.9, and above 0.5 they agree.
    """

    folder: Path
    clips: int = CLIPS
    epochs: int | None = None
    seed: int = 0
    threshold: float = THRESHOLD

    @property
    def store(self) -> str:
        """Where the store is."""
        return str(self.folder / "store")

    @property
    def page(self) -> Path:
        """Where the report is."""
        return self.folder / "report" / "report.html"

    def steps(self) -> list[Step]:
        """Return the whole path from nothing to a report, as commands."""
        corpus, store = self.folder / "corpus", ("--store", self.store)
        classes = ("--classes", _CLASSES)
        return [
            Step(
                "Write a corpus of real media files",
                ("mer-fs", "demo", "--corpus-only", str(corpus), *self._how()),
            ),
            Step("Make an empty store", ("mer-fs", "init", *store), "store"),
            Step(
                "Take in the catalogue; its labels become the layer gold",
                ("mer-fs", "ingest", str(corpus / "clips.csv"), *classes, *store),
            ),
            Step(
                "Take in the answers to the other clips: nothing trains on them",
                ("mer-fs", "labels", "import", str(corpus / "truth.csv"), "--as", "truth", *classes, *store),
                "labels/truth",
            ),
            Step("Describe the voices", ("mer-fs", "extract", "--plugin", "prosody", *store)),
            Step("Describe the faces", ("mer-fs", "extract", "--plugin", "face-pixels", *store)),
            Step("Describe the words", ("mer-fs", "extract", "--plugin", "char-ngrams", *store)),
            self._train("Train on the voice alone", "mlp", "audio-only", "--features", "prosody-UTT"),
            self._train("Train on the face alone", "mlp", "video-only", "--features", "face-pixels-UTT"),
            self._train("Train the audio-guided transformer on all three", "agt", "supervised"),
            self._round("Let the three vote on the unlabelled clips", "supervised", "gold", "round1"),
            self._train("Train again, with the pseudo-labels", "agt", "after-round1", "--labels", "round1"),
            self._round("Vote once more, with the better model", "after-round1", "round1", "round2"),
            self._train("And train a last time", "agt", "after-round2", "--labels", "round2"),
            *(
                Step(
                    f"Score {run} on the test clips",
                    ("mer-zoo", "evaluate", run, "--labels", "truth", *store),
                    f"runs/{run}.test-1",
                )
                for run in _JUDGED
            ),
            Step(
                "Write a report",
                (
                    "mer-zoo", "report", *_UNIMODAL, *_JUDGED, "--to", str(self.page.parent),
                    "--labels", "truth", "--title", "Two rounds of pseudo-labels", "--note", CLAIM, *store,
                ),
            ),
        ]  # fmt: skip

    def options(self) -> tuple[str, ...]:
        """Return the options that make this plan again."""
        threshold = ("--threshold", f"{self.threshold:g}") if self.threshold != THRESHOLD else ()
        return (*self._how(), *self._epochs(), *threshold)

    def _how(self) -> tuple[str, ...]:
        clips = ("--clips", str(self.clips)) if self.clips != CLIPS else ()
        return (*clips, "--seed", str(self.seed)) if self.seed else clips

    def _epochs(self) -> tuple[str, ...]:
        return () if self.epochs is None else ("--epochs", str(self.epochs))

    def _train(self, title: str, model: str, run: str, *options: str) -> Step:
        argv = ("mer-zoo", "train", model, *options, "--as", run, *self._epochs(), "--store", self.store)
        return Step(title, argv, f"runs/{run}")

    def _round(self, title: str, run: str, over: str, name: str) -> Step:
        members = [word for member in (run, *_UNIMODAL) for word in ("--run", member)]
        rest = ("--threshold", f"{self.threshold:g}", "--over", over, "--as", name, "--store", self.store)
        return Step(title, ("mer-zoo", "pseudo-label", *members, *rest), f"labels/{name}")

    def next_lines(self) -> list[str]:
        """Return commands worth trying afterwards."""
        store = ("--store", self.store)
        tries = (
            ("mer-fs", "quarantine"),
            ("mer-fs", "labels", "diff", "round1", "round2"),
            ("mer-fs", "log"),
            ("mer-zoo", "train", "attention", "--labels", "round2"),
            ("mer-zoo", "runs"),
        )
        return [shlex.join((*words, *store)) for words in tries]


def run_demo(plan: Plan) -> list[dict[str, Any]]:
    """Run every step that is not done yet and return the rows of the final table.

    Raises:
        click.ClickException: A step failed; what the steps before it made is kept.
    """
    # On a busy machine waiting threads should wait, not spin. It is read when torch is first imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    steps = plan.steps()
    click.echo(f"{CLAIM}\n")
    for number, step in enumerate(steps, 1):
        click.secho(f"[{number}/{len(steps)}] {step.title}", bold=True)
        click.secho(f"$ {step.line}", fg="cyan")
        if is_done(step, plan.store):
            click.echo("done already\n")
            continue
        with _explained(step, plan):
            run_line(step.argv)
        click.echo()
    return results(plan)


def is_done(step: Step, store: str) -> bool:
    """Say whether an earlier demo in the same folder got past this step."""
    from mer_featurestore import Store
    from mer_featurestore.errors import NotAStore

    if not step.makes:
        return False
    try:
        opened = Store.open(store)
    except NotAStore:
        return False
    return step.makes == "store" or opened.snapshot.has(step.makes)


@contextmanager
def _explained(step: Step, plan: Plan) -> Iterator[None]:
    """Say which step it was, and how to go on, when one does not end well."""
    try:
        yield
    except BaseException as error:
        stopped = isinstance(error, (KeyboardInterrupt, click.exceptions.Exit, click.Abort, SystemExit))
        again = shlex.join(("mer-fs", "demo", str(plan.folder), *plan.options()))
        what = "Stopped" if stopped else "Failed"
        click.echo(f"{what} at: {step.title}. What was done is kept; to go on: {again}", err=True)
        raise


def results(plan: Plan) -> list[dict[str, Any]]:
    """Read the scores on record: supervised against round 1 against round 2."""
    from mer_featurestore import Store
    from mer_zoo.report.gather import layer_view
    from mer_zoo.runs import find_run

    store = Store.open(plan.store)
    truth = store.labels.resolve("truth")
    rows = []
    for name in _JUDGED:
        config, record = find_run(store, name).config, store.runs[f"{name}.test-1"]
        layer = layer_view(store, config.labels, truth)
        rows.append(
            {
                "run": name,
                "labels": config.labels,
                "human": len(config.folds),
                "pseudo": len(config.pseudo),
                "pseudo_right": layer.precision,
                "waf": record.attrs["waf"],
                "uar": record.attrs["uar"],
            }
        )
    return rows
