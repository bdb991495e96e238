"""`mer-zoo compare`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import command, command_line, emit, open_store, store_option, table
from mer_cli.zoo_options import SCORES, device_option, print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_zoo.compare import Comparison


@command("compare")
@click.argument("a", metavar="RUN_A")
@click.argument("b", metavar="RUN_B")
@store_option
@click.option("--split", help="Predict its clips; by default the out-of-fold predictions are compared.")
@click.option("--labels", metavar="LAYER", help="Layer whose human labels decide; by default RUN_A's.")
@click.option("--seed", default=0, show_default=True, help="Of the bootstrap.")
@device_option
def compare(
    a: str, b: str, store_url: str, split: str | None, labels: str | None, seed: int, device: str
) -> None:
    """Say whether RUN_B is better than RUN_A: paired bootstrap, and McNemar's exact test.

    With --split the comparison is put on record in the journal, as an evaluation is.
    """
    from mer_zoo.compare import compare as compare_runs

    store = open_store(store_url)
    found = compare_runs(
        store, a, b, split=split, labels=labels, seed=seed, device=device, command=command_line()
    )
    emit(found.to_json(), lambda: _print(found))


def _print(found: "Comparison") -> None:
    print_notices(found.notices)
    where = f"on {found.on}" if found.record else "out of fold"
    clips = plural(found.n, "clip")
    click.echo(f"{clips} {where}, labels {found.labels}; {found.left_out} not predicted by both")
    rows = [
        (SCORES[name], f"{s.a:.4f}", f"{s.b:.4f}", f"{s.value:+.4f}", _range(s.interval), f"{s.p:.4f}")
        for name, s in found.scores.items()
    ]
    table("", ["score", found.a, found.b, "difference", "95 % interval", "p"], rows)
    only = f"{plural(found.table['a'], 'clip')} only {found.a} gets right, {found.table['b']} only {found.b}"
    click.echo(f"{only}: McNemar p = {found.mcnemar:.4f}")
    if found.record:
        click.echo(f"on record as {found.record}")


def _range(interval: tuple[float, float]) -> str:
    return f"{interval[0]:+.4f} to {interval[1]:+.4f}"
