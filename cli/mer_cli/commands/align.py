"""`mer-zoo align`."""

import shlex
from typing import TYPE_CHECKING, Any

import click

from mer_cli.align_options import (
    align_options,
    read_align_settings,
    read_encoder_settings,
    read_extractor_options,
    refuse_encoder_options,
)
from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.progress import progress
from mer_cli.zoo_options import device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_plugins.contract import Options
    from mer_zoo.alignment.aligning import Alignment


@command("align")
@click.argument("visual", metavar="VISUAL")
@store_option
@click.option("--to", required=True, metavar="SPACE", help="The acoustic space; it stays as it is.")
@click.option("--as", "name", required=True, metavar="NAME", help="Name of the adapter.")
@align_options
@device_option
@click.option("-m", "--message", default="", help="A word for the log.")
def align(visual: str, store_url: str, *, encoder: bool, **said: Any) -> None:
    """Bring visual features into the space of acoustic ones, without labels.

    VISUAL is a space with a row a clip, or a plugin whose space is VISUAL-UTT; with --encoder a plugin whose
    encoder is adapted from media. The result is an adapter: mer-fs derive --adapter NAME, or mer-fs extract
    --adapter NAME, write the aligned space.
    """
    from mer_zoo.alignment.aligning import Aim
    from mer_zoo.alignment.aligning import align as align_spaces

    if not encoder:
        refuse_encoder_options()
    settings, how, options = (
        read_align_settings(said),
        read_encoder_settings(said),
        read_extractor_options(said),
    )
    work = {name: said.pop(name) for name in ("work", "restart")}
    store, aim = open_store(store_url), Aim(visual=visual, command=command_line(), **said)
    with progress(f"aligning {visual}") as tell:
        if encoder:
            from mer_zoo.alignment.encoding import align_encoder

            found = align_encoder(
                store,
                aim,
                settings,
                how,
                options,
                **work,
                told=lambda stage, done, total: tell(done, total, stage),
            )
        else:
            found = align_spaces(store, aim, settings, tell)
    emit(found.to_json(), lambda: _print(found, extraction(visual, aim.name, options) if encoder else ""))


def extraction(plugin: str, adapter: str, options: "Options") -> str:
    """Return the command that extracts with an adapted encoder, with the options that were just typed."""
    said = {"--model": options.model, "--revision": options.revision, "--layers": options.layers}
    words = [word for name, value in said.items() if value is not None for word in (name, value)]
    words += [word for name, value in options.extra.items() for word in ("--option", f"{name}={value}")]
    words += ["--adapter", adapter, "--as", adapter]
    return shlex.join(["mer-fs", "extract", "--plugin", plugin, *words])


def _print(found: "Alignment", extraction: str) -> None:
    print_notices(found.notices)
    metrics = found.metrics
    clips = metrics["clips"]
    what = f"{metrics['visual']} to {metrics['acoustic']}"
    parts = f"{plural(clips['train'], 'clip')} train, {clips['valid']} validate"
    click.echo(f"{what}: {parts}; best epoch {metrics['best_epoch']}")
    names = list(metrics["chance"])
    rows = [(way, *(_rate(rates[name]) for name in names)) for way, rates in metrics["retrieval"].items()]
    rows.append(("chance", *(f"{metrics['chance'][name]:.3f}" for name in names)))
    if "oracle" in metrics:
        rows.append(("class known", *(_known(metrics["oracle"].get(name)) for name in names)))
    held = metrics["held_out"]
    who = plural(clips["held_out"], "held-out clip")
    table(f"{who} ({held}), video finds audio, [95 %]", ["", *names], rows)
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
    if extraction:
        click.echo(f"next: {extraction}")
    elif "probe" in metrics:
        click.echo(f"derived as {found.adapter}-UTT")
    else:
        click.echo(f"next: mer-fs derive {metrics['visual']} --adapter {found.adapter} --as {found.adapter}")


def _rate(rate: list[float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*rate)


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
