"""`mer-fs lineage`."""

import click

from mer_cli.app import at_option, command, emit, open_store, store_option


@command("lineage")
@store_option
@at_option
@click.argument("name")
@click.option("--dot", is_flag=True, help="Print Graphviz's DOT: mer-fs lineage NAME --dot | dot -Tsvg")
def lineage(store_url: str, at: int | None, name: str, dot: bool) -> None:
    """Show what NAME (or kind/NAME) was made from, down to the media."""
    from mer_featurestore.lineage import lineage as trace

    tree = trace(open_store(store_url, at).snapshot, name)
    emit(tree.to_json(), lambda: click.echo(tree.to_dot() if dot else tree.to_text()))
