"""`mer-zoo robustness-media`."""

from pathlib import Path
from typing import Any

import click

from mer_cli.app import command, command_line, open_store, store_option
from mer_cli.experiment_options import judged_options, tell
from mer_cli.params import Pair, names_option
from mer_cli.plugin_options import no_plugin_option


@command("robustness-media")
@click.argument("run")
@store_option
@click.option("--plugin", required=True, metavar="NAME", help="The extractor of one of the run's spaces.")
@click.option("--model", metavar="PATH|ID", help="Its checkpoint, as in mer-fs extract.")
@click.option("--revision", metavar="REV", help="As in mer-fs extract.")
@click.option("--adapter", default="", metavar="NAME|PATH", help="As in mer-fs extract.")
@click.option("--others", type=click.Choice(["mean", "all"]), help="As in mer-fs extract.")
@click.option("--layers", metavar="WHICH", help="As in mer-fs extract.")
@names_option("--level", "levels", "As in mer-fs extract.")
@click.option("--as", "name", default="", metavar="STEM", help="Name of the spaces, as in mer-fs extract.")
@click.option(
    "--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="An option of the plugin."
)
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="As in mer-fs extract.")
@click.option("--frame-hz", type=float, metavar="HZ", help="As in mer-fs extract.")
@click.option(
    "--snr", "snrs", type=float, multiple=True, default=(20.0, 10.0, 0.0), show_default=True, help="In dB."
)
@click.option(
    "--masked",
    type=float,
    multiple=True,
    default=(0.5,),
    show_default=True,
    help="Share of the time that is silent or black.",
)
@click.option("--stretches", default=1, show_default=True, help="In how many pieces, at random places.")
@click.option(
    "--patch", default=1.0, show_default=True, help="Share of the picture that is black during these."
)
@click.option("--seed", default=0, show_default=True)
@no_plugin_option
@judged_options
def robustness_media(run: str, store_url: str, figure: Path | None, **options: Any) -> None:
    """Damage the sound or the pictures, extract anew as `mer-fs extract` did, and score the run.

    Noise at a signal-to-noise ratio; silence or black for a share of the time, and throughout; no stream.
    Repeat the options of the extraction (`mer-fs log` shows them); another one is refused.
    """
    from mer_plugins.contract import Options
    from mer_plugins.pipeline import Request
    from mer_zoo.robustness_media import robustness_media as corrupt

    of_encoder = {option: options.pop(option) for option in ("model", "revision", "layers", "others")}
    extra = dict(options.pop("extra"))
    names = ("plugin", "adapter", "levels", "name", "dtype", "frame_hz")
    asked = {option: options.pop(option) for option in names}
    asked["levels"] = asked["levels"] or ()
    request = Request(options=Options(**of_encoder, device=options["device"], extra=extra), **asked)
    store = open_store(store_url)
    tell(store, corrupt(store, run, request, command=command_line(), **options), figure)
