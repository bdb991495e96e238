"""`mer-zoo probe-layers`."""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Pair
from mer_cli.plugin_options import no_plugin_option, warn_of_broken, without_model
from mer_cli.probe_view import extraction, print_next, print_probe
from mer_cli.progress import progress
from mer_cli.zoo_options import device_option, print_notices

if TYPE_CHECKING:
    from mer_plugins.pipeline import Request
    from mer_zoo.probing import Course, LayerProbe

_TRAINING = ("batch_size", "lr", "weight_decay", "class_weights")
_COURSE = ("seeds", "folds", "split", "group_by", "hidden", "epochs", "strict", "device")


@command("probe-layers")
@click.argument("plugin")
@store_option
@click.option("--labels", metavar="LAYER", help="Label layer; by default gold, or the only one.")
@click.option("--space", metavar="NAME", help="Probe this space with a layer axis; extract nothing.")
@click.option("--layers", default="all", show_default=True, metavar="WHICH", help="To probe, e.g. 0,4-8.")
@click.option("--band", type=int, metavar="N", help="Layers in the best band at most. [default: a quarter]")
@click.option("--mix/--no-mix", default=True, show_default=True, help="Learn a mix of all layers as well.")
@click.option("--hidden", default=0, metavar="N", help="Units of a hidden layer.  [default: a linear probe]")
@click.option("--seeds", default=3, show_default=True, help="Trainings of each probe.")
@click.option("--folds", default=5, show_default=True)
@click.option("--split", default="train", show_default=True, help="Whose human labels may be seen.")
@click.option(
    "--group-by",
    type=click.Choice(["auto", "speaker", "group", "none"]),
    default="auto",
    show_default=True,
    help="What no fold may divide; auto: speakers and groups, where given.",
)
@click.option("--epochs", type=int, help="Of training.  [default: 600 steps, 10 epochs at least]")
@click.option("--batch-size", default=64, show_default=True)
@click.option("--lr", default=2e-3, show_default=True)
@click.option("--weight-decay", default=0.02, show_default=True)
@click.option("--class-weights", is_flag=True, help="Let rare classes count more.")
@click.option("--strict", is_flag=True, help="Refuse labels or copies that leak instead of noting them.")
@click.option("--model", metavar="PATH|ID", help="Checkpoint to extract with: a local folder or a hub id.")
@click.option("--revision", metavar="REV", help="Revision of a hub checkpoint.")
@click.option("--adapter", default="", metavar="NAME|PATH", help="Probe the encoder with this adapter.")
@click.option("--as", "name", default="", metavar="STEM", help="Name of the space.  [default: PLUGIN-layers]")
@click.option("--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="Of the plugin.")
@click.option("--trust-remote-code", is_flag=True, help="Run the code beside the checkpoint's weights.")
@click.option("--batch", type=float, metavar="N", help="Most clips (or other cost) in a batch of extraction.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Decoding threads; 0: one per core.")
@click.option("--figure", type=click.Path(path_type=Path, dir_okay=False), help="Copy the figure here.")
@device_option
@no_plugin_option
def probe_layers(plugin: str, store_url: str, figure: Path | None, **said: Any) -> None:
    """Say which hidden layers of an encoder know the emotion.

    Extracts all layers of the labelled clips once, trains a probe for every layer, fold and seed in one
    computation, learns a mix of the layers, and names the best contiguous band for tuning. Interrupted, it
    goes on. No probe is stopped by the clips it is judged on; test clips are not touched.
    """
    from mer_plugins.pipeline import How
    from mer_zoo.probing import probe_layers as probe

    warn_of_broken()
    plugin = without_model(plugin, said)
    store = open_store(store_url)
    with progress(f"probing {plugin}") as report:
        found = probe(
            store,
            _request(plugin, said),
            course=_course(said),
            how=How(batch=said["batch"], workers=said["workers"], command=command_line()),
            progress=lambda _stage, done, total: report(done, total),
            command=command_line(),
            **{name: said[name] for name in ("labels", "space", "layers", "band", "mix")},
        )
    if figure is not None:
        from mer_zoo.experiments import FIGURE

        shutil.copyfile(store.runs[found.record].path(FIGURE), figure)
    emit(found.to_json(), lambda: _print(found, said["model"], dict(said["extra"])))


def _request(plugin: str, said: dict[str, Any]) -> "Request":
    from mer_plugins.contract import Options
    from mer_plugins.pipeline import Request

    names = ("model", "revision", "device", "trust_remote_code")
    options = Options(**{name: said[name] for name in names}, extra=dict(said["extra"]))
    return Request(plugin=plugin, options=options, adapter=said["adapter"], name=said["name"])


def _course(said: dict[str, Any]) -> "Course":
    from mer_zoo.probing import Course
    from mer_zoo.settings import Settings

    settings = Settings(**{name: said[name] for name in _TRAINING})
    return Course(settings=settings, **{name: said[name] for name in _COURSE})


def _print(found: "LayerProbe", model: str | None, options: dict[str, str]) -> None:
    print_notices(found.notices)
    print_probe(found.lines, f"{found.plugin} on {found.judged}, {found.seconds:.1f} s", found.best)
    click.echo(f"on record as {found.record}")
    again = extraction(found.plugin, model, options)
    print_next(again, str(found.band or ""), found.weighted, found.labels)
