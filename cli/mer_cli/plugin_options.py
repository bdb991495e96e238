"""What commands that use plugins share: `--no-plugin`, and a word on plugins that were skipped."""

import os
from typing import Any

import click

from mer_cli.app import Command


def no_plugin_option(function: Command) -> Command:
    """Add `--no-plugin NAME`, which leaves a plugin out of this run."""
    return click.option(
        "--no-plugin",
        multiple=True,
        metavar="NAME",
        expose_value=False,
        callback=_disable,
        help="Leave a plugin (an entry point) out; repeatable, also MER_DISABLE_PLUGINS=a,b.",
    )(function)


def without_model(plugin: str, said: dict[str, Any]) -> str:
    """Return the plugin of `PLUGIN:PATH_OR_ID`, and put what stands behind it where `--model` would."""
    name, _, model = plugin.partition(":")
    if model and said["model"]:
        raise click.UsageError(f"{plugin} names a checkpoint, and so does --model {said['model']}: say one")
    said["model"] = model or said["model"]
    return name


def warn_of_broken() -> None:
    """Say on stderr which plugins were skipped, and which names are claimed twice."""
    from mer_plugins import host

    for name, offers in host.clashes().items():
        owners = " and ".join(f"{offer.plugin} ({offer.origin})" for offer in offers)
        click.echo(f"Warning: {name!r} is offered by {owners}; leave one out with --no-plugin", err=True)
    for broken in host.host().broken:
        click.echo(f"Warning: {broken}", err=True)


def _disable(context: click.Context, parameter: click.Parameter, names: tuple[str, ...]) -> None:  # noqa: ARG001 - click's signature
    from mer_plugins.host import DISABLE

    present: Any = os.environ.get(DISABLE, "")
    os.environ[DISABLE] = ",".join(filter(None, [present, *names]))
