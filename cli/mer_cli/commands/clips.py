"""`mer-fs clips`."""

from collections import Counter
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table
from mer_cli.params import names_option
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore import Clip


@command("clips")
@store_option
@at_option
@names_option("--split", "splits", "These splits only.")
@names_option("--corpus", "corpora", "These corpora only.")
@click.option(
    "--list",
    "as_list",
    is_flag=True,
    help="One line a clip, instead of counts: key, corpus, split, speaker, group, transcript, between tabs.",
)
def clips(
    store_url: str,
    at: int | None,
    splits: tuple[str, ...] | None,
    corpora: tuple[str, ...] | None,
    as_list: bool,
) -> None:
    """Count clips by split, modality and speaker, or list them."""
    found = open_store(store_url, at).clips.select(split=splits, corpus=corpora)
    if as_list:
        emit([asdict(clip) for clip in found], lambda: _print_list(found))
    else:
        counts = _counts(found)
        emit(counts, lambda: _print_counts(counts))


def _counts(clips: "list[Clip]") -> dict[str, Any]:
    modalities = ("audio", "video", "text")
    return {
        "clips": len(clips),
        "splits": dict(Counter(clip.split for clip in clips)),
        "corpora": dict(Counter(clip.corpus for clip in clips)),
        "modalities": {m: sum(getattr(clip, m) is not None for clip in clips) for m in modalities},
        "speakers": dict(Counter(clip.speaker for clip in clips)),
        "speakers_by_split": {
            split: dict(Counter(clip.speaker for clip in clips if clip.split == split))
            for split in dict.fromkeys(clip.split for clip in clips)
        },
    }


def _print_counts(counts: dict[str, Any]) -> None:
    click.echo(plural(counts["clips"], "clip"))
    for title, name in (("split", "splits"), ("corpus", "corpora"), ("modality", "modalities")):
        table("", [title, "clips"], [(key or "(none)", n) for key, n in counts[name].items()])
    rows = [
        (speaker or "(not known)", split, n)
        for split, speakers in counts["speakers_by_split"].items()
        for speaker, n in sorted(speakers.items())
    ]
    if len(rows) <= 60:
        table("", ["speaker", "split", "clips"], rows)
    else:
        click.echo(f"{plural(len(counts['speakers']), 'speaker')}; --json lists them")


def _print_list(clips: "list[Clip]") -> None:
    for clip in clips:
        text = (clip.text or "").replace("\n", " ").replace("\t", " ")
        click.echo(f"{clip.key}\t{clip.corpus}\t{clip.split}\t{clip.speaker}\t{clip.group}\t{text}")
