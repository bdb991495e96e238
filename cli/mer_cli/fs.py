"""`mer-fs`: the feature store and extraction."""

import click

from mer_cli.app import LazyGroup

COMMANDS = {
    "init": ("mer_cli.commands.init:init", "Make an empty store."),
    "ingest": ("mer_cli.commands.ingest:ingest", "Add clips from a CSV catalogue."),
    "plugins": ("mer_cli.commands.plugins:plugins", "List extractor plugins and what they need."),
    "plugin": ("mer_cli.commands.plugin:plugin", "Write a plugin of your own, and check one."),
    "extract": ("mer_cli.commands.extract:extract", "Turn clips into features, resuming where it stopped."),
    "derive": ("mer_cli.commands.derive:derive", "Compute a space from another: project, mix, pool."),
    "spaces": ("mer_cli.commands.spaces:spaces", "List feature spaces."),
    "clips": ("mer_cli.commands.clips:clips", "List clips by split, speaker and modality."),
    "quarantine": (
        "mer_cli.commands.quarantine:quarantine",
        "List clips an extraction could not use, and why.",
    ),
    "labels": ("mer_cli.commands.labels:labels", "List, import, show, compare and export label layers."),
    "adapters": ("mer_cli.commands.adapters:adapters", "List, add, show and export LoRA and other adapters."),
    "import": ("mer_cli.commands.import_:import_", "Import features that another tool made."),
    "export": ("mer_cli.commands.export:export", "Write features for other tools."),
    "duplicates": ("mer_cli.commands.duplicates:duplicates", "List clips that have the same content."),
    "lineage": ("mer_cli.commands.lineage:lineage", "Show what a thing was made from, down to the media."),
    "log": ("mer_cli.commands.log:log", "Show the journal of commits."),
    "rm": ("mer_cli.commands.rm:rm", "Remove a space, layer, run or adapter."),
    "compact": ("mer_cli.commands.compact:compact", "Merge small fragments of feature spaces."),
    "gc": ("mer_cli.commands.gc:gc", "Delete files that no commit names."),
    "verify": ("mer_cli.commands.verify:verify", "Check the whole store and list what is broken."),
    "demo": ("mer_cli.commands.demo:demo", "Run the whole path on a synthetic corpus."),
}


@click.group(cls=LazyGroup, lazy=COMMANDS)
@click.version_option(package_name="mer-fs")
def main() -> None:
    """Feature store for multimodal emotion recognition.

    Turn audio, video and transcripts into features under a key; keep them with the fingerprint of how they
    were made; version every round of labels.
    """
