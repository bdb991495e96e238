"""`mer-zoo show`."""

from typing import TYPE_CHECKING

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table
from mer_cli.search_view import print_trials
from mer_cli.zoo_options import print_confusion, print_scores, shown
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_zoo.runs import Run


@command("show")
@click.argument("run")
@store_option
@at_option
def show(run: str, store_url: str, at: int | None) -> None:
    """Show one run (configuration, out-of-fold scores, folds), or the table of a search or experiment."""
    from mer_zoo.runs import EXPERIMENT, find_run, find_search, list_evaluations

    store = open_store(store_url, at)
    searched = find_search(store, run)
    if searched is not None:
        emit(searched, lambda: print_trials(searched))
        return
    if run in store.runs and store.runs[run].attrs.get("type") == EXPERIMENT:
        _show_experiment(store, run)
        return
    found = find_run(store, run)
    document = {
        "name": found.name,
        "commit": found.bundle.commit,
        "time": found.bundle.time,
        "config": found.config.to_json(),
        "metrics": found.metrics,
        "evaluations": [dict(b.attrs) for b in list_evaluations(store, run)],
    }
    emit(document, lambda: _print(store, found))


def _show_experiment(store: "Store", name: str) -> None:
    from mer_cli.experiment_options import print_experiment
    from mer_cli.probe_view import print_record
    from mer_zoo.experiments import read_experiment

    found, document = read_experiment(store, name)
    probed = document["kind"] == "probe"
    emit(document, lambda: print_record(document, found.lines) if probed else print_experiment(found))


def _print(store: "Store", run: "Run") -> None:
    from mer_zoo.runs import list_evaluations

    config = run.config
    facts = {
        "model": f"{config.model} {shown(config.params)}",
        "features": ", ".join(
            f"{m} = {c} ({c.level}, {c.width}, {c.fingerprint[:8]})" for m, c in config.inputs.chosen.items()
        ),
        "labels": f"{config.labels}: {len(config.folds)} of {config.split}, {len(config.pseudo)} pseudo",
        "folds": f"{config.fold_count}, grouped by {config.grouped_by}, seed {config.seed}",
        "training": shown(config.settings.to_json()),
        **({"warm": f"each fold began with the weights of {config.warm}"} if config.warm else {}),
        "made": f"commit {run.bundle.commit} (read {config.commit}), {run.bundle.time}, on {config.device}",
        "versions": shown(config.versions),
    }
    for name, value in facts.items():
        click.echo(f"{name:9s} {value}")
    print_scores("out of fold", run.scores)
    print_confusion(run.scores)
    rows = [
        (part["name"], s["n"], f"{s['waf']:.4f}", f"{s['uar']:.4f}", part["best_epoch"], len(part["epochs"]))
        for part, s in zip(run.history, run.metrics["folds"], strict=True)
    ]
    table("", ["fold", "clips", "WAF", "UAR", "best epoch", "epochs"], rows)
    for bundle in list_evaluations(store, run.name):
        facts = bundle.attrs
        click.echo(
            f"evaluated on {facts['split']} ({facts['labels']}, {plural(int(facts['n']), 'clip')}): "
            f"WAF {facts['waf']:.4f}  UAR {facts['uar']:.4f}"
        )
