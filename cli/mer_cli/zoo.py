"""`mer-zoo`: fusion models, runs and pseudo-label rounds."""

import click

from mer_cli.app import LazyGroup

COMMANDS = {
    "models": ("mer_cli.commands.models:models", "List fusion models and their parameters."),
    "train": ("mer_cli.commands.train:train", "Train a model over K folds from a feature store."),
    "probe-layers": (
        "mer_cli.commands.probe_layers:probe_layers",
        "Say which layers of an encoder know the emotion.",
    ),
    "search": ("mer_cli.commands.search:search", "Search a model's settings and train the best."),
    "align": ("mer_cli.commands.align:align", "Bring visual features into the space of acoustic ones."),
    "runs": ("mer_cli.commands.runs:runs", "List runs with their scores."),
    "show": ("mer_cli.commands.show:show", "Show one run: configuration, scores, folds."),
    "predict": ("mer_cli.commands.predict:predict", "Predict any split with a run."),
    "evaluate": ("mer_cli.commands.evaluate:evaluate", "Score a run on a labelled split."),
    "compare": ("mer_cli.commands.compare:compare", "Say whether one run is better than another."),
    "calibrate": (
        "mer_cli.commands.calibrate:calibrate",
        "Say how far a run's probabilities can be trusted.",
    ),
    "suspects": ("mer_cli.commands.suspects:suspects", "List human labels that a run doubts."),
    "priors": ("mer_cli.commands.priors:priors", "Estimate the class shares of a split."),
    "strategies": ("mer_cli.commands.strategies:strategies", "List the ways of voting and selecting."),
    "pseudo-label": ("mer_cli.commands.pseudo_label:pseudo_label", "Publish a round of pseudo-labels."),
    "self-train": ("mer_cli.commands.self_train:self_train", "Train, label and train again while it helps."),
    "run": ("mer_cli.commands.run:run", "Run a whole pipeline, resuming where it stopped."),
    "recipes": ("mer_cli.commands.recipes:recipes", "List the pipelines that come along."),
    "tune": ("mer_cli.commands.tune:tune", "Tune an encoder on labelled clips."),
    "ablate": ("mer_cli.commands.ablate:ablate", "Take AGT apart: guidance, gate, encoder, vote."),
    "sweep-threshold": ("mer_cli.commands.sweep_threshold:sweep_threshold", "Try confidence thresholds."),
    "robustness": ("mer_cli.commands.robustness:robustness", "Corrupt what a run reads, and score it."),
    "robustness-media": (
        "mer_cli.commands.robustness_media:robustness_media",
        "Put noise into media, extract anew, and score a run.",
    ),
    "vote-shift": ("mer_cli.commands.vote_shift:vote_shift", "Compare votes under other class shares."),
    "report": ("mer_cli.commands.report:report", "Write an HTML report with figures."),
    "export": ("mer_cli.commands.zoo_export:export", "Write a run's weights with a model card."),
    "submit": ("mer_cli.commands.submit:submit", "Write a challenge's CSV of a split."),
    "rerun": ("mer_cli.commands.rerun:rerun", "Train a run again and compare the two."),
    "rm": ("mer_cli.commands.zoo_rm:rm", "Remove a run and its evaluations."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@click.version_option(package_name="mer-fs")
def main() -> None:
    """Fusion models for multimodal emotion recognition, trained by key from a feature store."""
