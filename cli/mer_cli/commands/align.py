"""`mer-zoo align`."""

from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.params import Names
from mer_cli.progress import progress
from mer_cli.zoo_options import device_option, print_notices

if TYPE_CHECKING:
    from mer_zoo.alignment.aligning import Alignment

_SETTINGS = (
    "loss", "hidden", "epochs", "patience", "batch_size", "lr", "weight_decay", "dropout", "temperature",
    "seed",
)  # fmt: skip


@command("align")
@click.argument("visual", metavar="VISUAL")
@store_option
@click.option("--to", required=True, metavar="SPACE", help="The acoustic space; it stays as it is.")
@click.option("--as", "name", required=True, metavar="NAME", help="Name of the adapter.")
@click.option(
    "--split", "splits", type=Names(), default="unlabeled", show_default=True, help="Clips that train."
)
@click.option(
    "--held-out", default="", metavar="SPLIT", help="Measure on it. [default: a fifth of the groups]"
)
@click.option("--group-by", type=click.Choice(["auto", "speaker", "group", "none"]), default="auto")
@click.option("--loss", type=click.Choice(["infonce", "cosine", "mse"]), default="infonce", show_default=True)
@click.option("--hidden", default=0, show_default=True, help="Width of a hidden layer; 0: one affine map.")
@click.option("--epochs", default=100, show_default=True, help="At most.")
@click.option("--patience", default=15, show_default=True, help="Epochs without a better validation.")
@click.option("--batch-size", default=256, show_default=True)
@click.option("--lr", default=1e-3, show_default=True)
@click.option("--weight-decay", default=1e-2, show_default=True)
@click.option("--dropout", default=0.3, show_default=True, help="On the visual features.")
@click.option("--temperature", default=0.07, show_default=True, help="Where InfoNCE starts.")
@click.option("--seed", default=0, show_default=True)
@click.option("--labels", default="", metavar="LAYER", help="Derive the space, probe both with these labels.")
@click.option(
    "--judge", default="", metavar="LAYER", help="Knows held-out clips' classes: retrieval by class."
)
@device_option
@click.option("-m", "--message", default="", help="A word for the log.")
def align(visual: str, store_url: str, **said: Any) -> None:
    """Bring visual features into the space of acoustic ones, without labels.

    VISUAL is a space with a row a clip, or a plugin whose space is VISUAL-UTT. The result is an adapter:
    mer-fs derive --adapter NAME, or mer-fs extract --adapter NAME, write the aligned space.
    """
    from mer_zoo.alignment import AlignSettings
    from mer_zoo.alignment.aligning import Aim
    from mer_zoo.alignment.aligning import align as align_spaces

    settings = AlignSettings(**{name: said.pop(name) for name in _SETTINGS})
    aim = Aim(visual=visual, command=command_line(), **said)
    with progress(f"aligning {visual}") as tell:
        found = align_spaces(open_store(store_url), aim, settings, tell)
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Alignment") -> None:
    print_notices(found.notices)
    metrics = found.metrics
    clips = metrics["clips"]
    what = f"{metrics['visual']} to {metrics['acoustic']}"
    parts = f"{clips['train']} clips train, {clips['valid']} validate"
    click.echo(f"{what}: {parts}; best epoch {metrics['best_epoch']}")
    names = list(metrics["chance"])
    rows = [(way, *(_rate(rates[name]) for name in names)) for way, rates in metrics["retrieval"].items()]
    rows.append(("chance", *(f"{metrics['chance'][name]:.3f}" for name in names)))
    if "oracle" in metrics:
        rows.append(("class known", *(_known(metrics["oracle"].get(name)) for name in names)))
    held = metrics["held_out"]
    table(f"{clips['held_out']} held-out clips ({held}), video finds audio, [95 %]", ["", *names], rows)
    for way, gains in metrics["gain"].items():
        told = ", ".join(
            f"{name} {value:+.3f} [{low:+.3f}, {high:+.3f}]" for name, (value, low, high) in gains.items()
        )
        click.echo(f"above {way}: {told}")
    for line in metrics.get("probe", {}).get("lines", ()):
        click.echo(
            f"probe of {line['name']}: WAF {line['waf'][0]:.4f} [{line['waf'][1]:.4f}, {line['waf'][2]:.4f}]"
        )
    click.echo(f"adapter {found.adapter}, on record as {found.record}")


def _rate(rate: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*rate)


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
