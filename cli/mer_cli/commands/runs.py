"""`mer-zoo runs`."""

import click

from mer_cli.app import at_option, command, emit, open_store, store_option, table


@command("runs")
@store_option
@at_option
def runs(store_url: str, at: int | None) -> None:
    """List runs, oldest first, with their out-of-fold scores and evaluations."""
    from mer_zoo.runs import summaries

    found = summaries(open_store(store_url, at))
    columns = ["run", "model", "labels", "clips", "folds", "WAF", "UAR", "evaluated"]
    rows = [
        (
            run["name"],
            run["model"],
            run["labels"],
            f"{run['human']}+{run['pseudo']}" if run["pseudo"] else f"{run['human']}",
            run["folds"],
            f"{run['waf']:.4f}",
            f"{run['uar']:.4f}",
            ", ".join(f"{e['split']} {e['waf']:.4f}" for e in run["evaluations"]),
        )
        for run in found
    ]

    def show() -> None:
        if rows:
            table("", columns, rows)
        else:
            click.echo("no runs yet; train one: mer-zoo train agt")

    emit(found, show)
