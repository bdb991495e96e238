"""`mer-fs adapters`: the group, and what it lists when called alone."""

from collections.abc import Iterator
from typing import Any

import click
from click.core import ParameterSource

from mer_cli.app import LazyGroup, at_option, command, emit, open_store, store_option, table
from mer_featurestore.wording import plural

COMMANDS = {
    "list": ("mer_cli.commands.adapters:adapters_list", "List adapters: base model, layers, rank, labels."),
    "add": (
        "mer_cli.commands.adapters_add:adapters_add",
        "Take in an adapter that peft saved, or an exported one.",
    ),
    "show": ("mer_cli.commands.adapters:adapters_show", "Show an adapter's card."),
    "export": ("mer_cli.commands.adapters:adapters_export", "Write an adapter's files into a folder."),
}


@command("adapters", cls=LazyGroup, lazy=COMMANDS, invoke_without_command=True)
@store_option
@at_option
def adapters(store_url: str, at: int | None) -> None:
    """List LoRA and other adapters, or add, show and export them."""
    context = click.get_current_context()
    if context.invoked_subcommand is None:
        _list(store_url, at)
    elif context.get_parameter_source("store_url") is ParameterSource.COMMANDLINE or at is not None:
        name = context.invoked_subcommand
        raise click.UsageError(f"put --store and --at behind the command: mer-fs adapters {name} --store …")


@command("list")
@store_option
@at_option
def adapters_list(store_url: str, at: int | None) -> None:
    """List adapters, oldest first."""
    _list(store_url, at)


@command("show")
@store_option
@at_option
@click.argument("name")
def adapters_show(store_url: str, at: int | None, name: str) -> None:
    """Show the card of adapter NAME: base model, what it changes, which labels it was trained on."""
    bundle = open_store(store_url, at).adapters[name]
    card = bundle.json("card.json")
    emit(card, lambda: _print(name, card))


@command("export")
@store_option
@at_option
@click.argument("name")
@click.option("--to", required=True, type=click.Path(file_okay=False), help="A folder, made if need be.")
def adapters_export(store_url: str, at: int | None, name: str, to: str) -> None:
    """Write the files of adapter NAME into a folder, for PeftModel.from_pretrained or mer-fs adapters add."""
    from pathlib import Path

    from mer_plugins.adapters import export

    files = [str(file) for file in export(open_store(store_url, at), name, Path(to))]
    emit(files, lambda: click.echo("\n".join(files)))


def _list(store_url: str, at: int | None) -> None:
    found = [{"name": name, **bundle.attrs} for name, bundle in open_store(store_url, at).adapters.items()]
    emit(found, lambda: _table(found))


def _table(found: list[dict[str, Any]]) -> None:
    if not found:
        click.echo(
            "no adapters yet; mer-zoo tune trains one, mer-fs adapters add FOLDER --as NAME takes one in"
        )
        return
    columns = ("adapter", "type", "base", "rank", "blocks", "changes", "parameters", "folds", "labels")
    facts = ("type", "base", "rank", "layers", "targets", "parameters")
    rows = [
        (f["name"], *(_shown(f.get(fact)) for fact in facts), f.get("folds") or None, f.get("labels"))
        for f in found
    ]
    table("", columns, rows)


def _shown(fact: Any) -> Any:
    """Return a list as text, whole numbers as a band where they are one."""
    if not isinstance(fact, list):
        return fact
    return _band(fact) if all(isinstance(item, int) for item in fact) else ", ".join(fact)


def _band(layers: list[int]) -> str:
    if len(layers) > 1 and layers == list(range(layers[0], layers[-1] + 1)):
        return f"{layers[0]}-{layers[-1]}"
    return ", ".join(map(str, layers))


def _print(name: str, card: dict[str, Any]) -> None:
    for row, (fact, told) in enumerate(_facts(card)):
        click.echo(f"  {fact:<11} {told}" if row else f"{click.style(name, bold=True)}: {told}")


def _facts(card: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield what is known of an adapter; the first is its kind."""
    base, weights = card["base"], card.get("weights", {"all": True, "folds": 0})
    sizes = {"rank": card["rank"], "alpha": card["alpha"]}
    if card["type"] == "BOTTLENECK":
        sizes = {"size": card["rank"]}
    yield "", ", ".join([card["type"], *(f"{size} {n}" for size, n in sizes.items() if n is not None)])
    yield "base", f"{base['model'] or 'not known'} {base['revision']}".rstrip()
    yield "weights", base["weights_sha256"] or "not known (mer-fs adapters add --base PATH)"
    if card["layers"]:
        what = ", ".join(card["targets"]) or "what comes out"
        yield "changes", f"{what} in blocks {_band(card['layers'])}"
    if projection := card.get("projection"):
        yield "projection", f"rows of {projection[0]} to {projection[1]}"
    yield "parameters", f"{card['parameters']:,}"
    if weights["folds"]:
        yield "folds", f"{weights['folds']}{', and weights trained on all data' * weights['all']}"
    yield from _seen(card)


def _seen(card: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what is known of the data it was trained on."""
    training, aligned, fitted = card["training"], card.get("alignment"), card.get("fitted")
    if tuned := card.get("tuning"):
        yield from _tuned(tuned)
    if training is not None:
        own = len(training.get("folds") or ())
        kept = f", {own} of them in folds that have not seen theirs" if own else ""
        yield "trained on", f"labels/{training['labels']}, {plural(len(training['keys']), 'clip')}{kept}"
    if aligned is not None:
        clips = plural(len(aligned.get("keys", ())), "clip")
        yield "aligned to", f"features/{aligned.get('aligned_to')}, {clips}"
    if fitted is not None:
        yield "fitted", _fit(fitted)
    if training is None and aligned is None and fitted is None:
        yield "trained on", "not known (mer-fs adapters add --labels LAYER)"


def _tuned(tuned: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield how rows were made while it was tuned, which extraction should repeat, and its held-out score."""
    rows = {name: fact for name, fact in tuned.get("rows", {}).items() if name != "checkpoint"}
    how = ", ".join(f"{name} {rows[name]}" for name in sorted(rows))
    yield "tuned with", f"{tuned.get('plugin')}: {how}"
    if held := tuned.get("out_of_fold"):
        frozen = f", {tuned['frozen']['uar']:.4f} by the frozen encoder" if tuned.get("frozen") else ""
        yield "held out", f"UAR {held['uar']:.4f}{frozen}, {plural(held['n'], 'clip')}"


def _fit(fitted: dict[str, Any]) -> str:
    """Return what a projection was fitted to, and how much variance it keeps."""
    kept = fitted.get("explained_variance_ratio")
    variance = f", {kept:.1%} of the variance kept" if kept is not None else ""
    splits = " and ".join(fitted.get("splits", ()))
    clips = plural(int(fitted.get("clips", 0)), "clip")
    return f"to {clips} of {splits} in features/{fitted.get('space')}{variance}"
