"""`mer-zoo self-train`."""

from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.params import Names, Pair
from mer_cli.round_options import read_rules, round_options
from mer_cli.training_options import read_settings, settings_options
from mer_cli.zoo_options import device_option

if TYPE_CHECKING:
    from mer_zoo.loop_table import Loop, Stage


@command("self-train")
@click.argument("model")
@store_option
@click.option("--rounds", default=3, show_default=True, help="At most.")
@click.option("--labels", metavar="LAYER", help="The human labels; by default gold, or the only layer.")
@click.option("--as", "name", default="round", show_default=True, metavar="NAME", help="Name of the loop.")
@click.option(
    "--member",
    "members",
    multiple=True,
    metavar="MODEL[:SPACE,…]",
    help="Another member, e.g. mlp:prosody-UTT.",
)
@click.option("--features", type=Names(), help="Spaces of MODEL; by default the only ones there are.")
@click.option("--split", default="unlabeled", show_default=True, help="Whose clips are labelled.")
@click.option("--audit", metavar="LAYER", help="A layer that knows their classes, to measure precision by.")
@click.option("--stop-after", default=1, show_default=True, help="Rounds without a higher out-of-fold WAF.")
@click.option("--folds", default=5, show_default=True)
@click.option("--seed", default=0, show_default=True)
@click.option(
    "--param", "params", type=Pair("name=value", "hidden=64"), multiple=True, help="A parameter of MODEL."
)
@settings_options
@click.option("--train-split", default="train", show_default=True, help="Whose human labels may be seen.")
@click.option("--soft-labels", is_flag=True, help="Train on pseudo-labels' probabilities.")
@click.option("--confidence-weights", is_flag=True, help="Let pseudo-labels count by their confidence.")
@click.option(
    "--warm",
    is_flag=True,
    help="Go on from the weights of the round before, fold by fold; else from scratch.",
)
@round_options
@device_option
def self_train(model: str, store_url: str, params: tuple[tuple[str, str], ...], **options: Any) -> None:
    """Train, label what nobody labelled, and train again, for as long as the out-of-fold WAF rises.

    Interrupted, the same command goes on where it was. Members are named as typed in --expert.
    """
    from mer_zoo.self_train import self_train as run_loop

    rules, settings = read_rules(options), read_settings(options)
    found = run_loop(
        open_store(store_url),
        model,
        params=dict(params),
        settings=settings,
        rules=rules,
        told=lambda line: click.echo(line, err=True),
        command=command_line(),
        **options,
    )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Loop") -> None:
    columns = ["layer", "kept", "flips", "estimated", "measured", "WAF", "95 %", "UAR", "95 %"]
    table("", columns, [_row(stage) for stage in found.stages])
    for stage in found.stages:
        if stage.labelled is not None:
            _print_classes(stage)
    click.echo(f"{found.stopped}; the best is {found.best.layer} (WAF {found.best.waf:.4f}, out of fold)")


def _row(stage: "Stage") -> tuple[str, ...]:
    kept = flips = estimated = measured = ""
    if (labelled := stage.labelled) is not None:
        kept = f"{labelled.kept}/{labelled.judged}"
        flips = "" if labelled.flips is None else str(labelled.flips)
        total = sum(p * labelled.counts[c] for c, p in labelled.estimated.items())
        estimated = f"{total / labelled.kept:.3f}"
        if labelled.precision is not None:
            share, interval = labelled.precision
            measured = f"{share:.3f} ({interval.low:.3f} to {interval.high:.3f})"
    scores = (f"{stage.waf:.4f}", str(stage.waf_interval), f"{stage.uar:.4f}", str(stage.uar_interval))
    return (stage.layer, kept, flips, estimated, measured, *scores)


def _print_classes(stage: "Stage") -> None:
    labelled = stage.labelled
    if labelled is None:
        return
    rows = []
    for name, count in labelled.counts.items():
        estimate = f"{labelled.estimated[name]:.3f}" if name in labelled.estimated else ""
        known, right = labelled.measured.get(name, (0, 0))
        rows.append((name, count, estimate, f"{right}/{known} = {right / known:.3f}" if known else ""))
    click.echo(f"\n{stage.layer}:")
    table("", ["class", "kept", "estimated precision", "measured"], rows)
