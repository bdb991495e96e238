"""`mer-zoo pseudo-label`."""

from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.round_options import read_rules, round_options
from mer_cli.zoo_options import device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.pseudo_label import Round


@command("pseudo-label")
@store_option
@click.option("--run", "runs", multiple=True, required=True, help="A member; give it several times.")
@click.option("--as", "name", required=True, metavar="NAME", help="Name of the new label layer.")
@click.option("--over", metavar="LAYER", help="What it stands on; by default gold, or the only layer.")
@click.option("--split", default="unlabeled", show_default=True, help="Whose clips are judged.")
@round_options
@device_option
def pseudo_label(
    store_url: str,
    runs: tuple[str, ...],
    name: str,
    over: str | None,
    split: str,
    device: str,
    **options: Any,
) -> None:
    """Let runs vote on unlabelled clips, and publish the sure ones as a new, immutable label layer.

    `mer-zoo strategies` lists the ways of voting and selecting, with their parameters.
    """
    from mer_zoo.pseudo_label import pseudo_label as publish

    rules = read_rules(options)
    found = publish(
        open_store(store_url),
        runs,
        over,
        split,
        name=name,
        device=device,
        command=command_line(),
        **rules.to_json(),
    )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Round") -> None:
    print_notices(found.notices)
    counts = ", ".join(f"{name} {n}" for name, n in found.counts.items())
    kept = f"kept {found.kept} of {plural(found.judged, 'clip')}"
    click.echo(f"layer {found.layer.name!r} over {found.over!r}: {kept}")
    click.echo(f"per class: {counts}")
    if found.human:
        click.echo(f"not judged, because labelled by people: {plural(found.human, 'clip')}")
