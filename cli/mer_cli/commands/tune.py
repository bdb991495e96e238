"""`mer-zoo tune`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.plugin_options import without_model
from mer_cli.progress import progress
from mer_cli.tune_options import read_options, read_tune_settings, tune_options
from mer_cli.zoo_options import print_notices, print_scores
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.metrics import Scores
    from mer_zoo.tuning.result import PartResult, TuneResult

_SHOWN = 5


@command("tune")
@click.argument("plugin")
@store_option
@click.option("--as", "name", required=True, metavar="NAME", help="Name of the adapter.")
@click.option("--labels", metavar="LAYER", help="Label layer; by default gold, or the only one.")
@click.option(
    "--layers",
    default="best",
    show_default=True,
    metavar="WHICH",
    help="To adapt: best (of the newest probe), all, k or i-j.",
)
@click.option("--probe", metavar="RUN", help="The probe that --layers best means.")
@click.option("--folds", default=0, show_default=True, help="3 or more: an adapter per fold; 0: one adapter.")
@click.option(
    "--all/--no-all", "all_data", default=True, show_default=True, help="With folds, one more on all."
)
@click.option("--split", default="train", show_default=True, help="Whose human labels may be seen.")
@click.option(
    "--group-by",
    type=click.Choice(["auto", "speaker", "group", "none"]),
    default="auto",
    show_default=True,
    help="What no fold may divide; auto: speakers and groups, where given.",
)
@click.option("--seed", default=0, show_default=True)
@tune_options
@click.option("--memory", default=4.0, show_default=True, metavar="GB", help="For decoded clips.")
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Decoding threads; 0: one per core.")
@click.option("--work", type=click.Path(path_type=Path, file_okay=False), help="Folder for checkpoints.")
@click.option("--restart", is_flag=True, help="Begin anew instead of going on.")
def tune(plugin: str, store_url: str, **said: Any) -> None:
    """Tune an encoder on labelled clips, and keep the adapter in the store.

    With --folds, extraction takes for each labelled clip the adapter that has not seen its label.
    Interrupted, the same command goes on where it was.
    """
    from mer_zoo.tuning.settings import TuneRequest
    from mer_zoo.tuning.tune import tune as run

    plugin = without_model(plugin, said)
    options, settings = read_options(said), read_tune_settings(said)
    how = {name: said.pop(name) for name in ("workers", "work", "restart")}
    how["memory"] = round(said.pop("memory") * 2**30)
    with progress(f"tuning {plugin}") as report:
        result = run(
            open_store(store_url),
            TuneRequest(plugin=plugin, options=options, settings=settings, **said),
            **how,
            progress=lambda stage, done, total: report(done, total, stage),
            command=command_line(),
        )
    emit(result.to_json(), lambda: _print(result))


def _print(result: "TuneResult") -> None:
    print_notices(result.notices)
    layers = "all layers" if result.layers is None else f"layers {', '.join(map(str, result.layers))}"
    share = result.trainable / result.total
    click.echo(
        f"adapter {result.name!r}: {layers} of {result.plugin}, {result.trainable:,} of {result.total:,} "
        f"parameters trained ({share:.2%}), {result.seconds:.0f} s{' (resumed)' * result.resumed}"
    )
    columns = ["part", "clips", "epoch", "of", "validation UAR", "frozen", "held out UAR", "95 %", "frozen"]
    table("", columns, [_row(part) for part in result.parts])
    if result.out_of_fold and result.frozen:
        print_scores("held out, all folds", result.out_of_fold)
        click.echo(f"by the frozen encoder: WAF {result.frozen.waf:.4f}  UAR {result.frozen.uar:.4f}")
    if result.left_out:
        click.echo(f"{plural(len(result.left_out), 'clip')} left out:")
        for key, reason in list(result.left_out.items())[:_SHOWN]:
            click.echo(f"  {key}: {reason}")
        if len(result.left_out) > _SHOWN:
            click.echo(
                f"  and {len(result.left_out) - _SHOWN} more; all are in its card: mer-fs adapters show"
            )
    click.echo(f"next: {result.extract}")


def _row(part: "PartResult") -> tuple[Any, ...]:
    def uar(scores: "Scores | None") -> str:
        return f"{scores.uar:.4f}" if scores else ""

    spread = str(part.held.intervals["uar"]) if part.held else ""
    valid = uar(part.valid), uar(part.valid_before)
    held = uar(part.held), spread, uar(part.held_before)
    return (part.name, part.trained, part.best_epoch, part.epochs, *valid, *held)
