"""Command lines of mer-fs and mer-zoo, run or only checked within this process, by no shell."""

import shlex
from collections.abc import Sequence

import click


def run_line(argv: Sequence[str]) -> None:
    """Run one command line of mer-fs or mer-zoo in this process, as a shell would."""
    with _group(argv[0]).make_context(argv[0], list(argv[1:])) as context:
        context.meta["mer_cli.command_line"] = shlex.join(argv)
        context.command.invoke(context)


def check_line(argv: Sequence[str]) -> click.Context:
    """Parse a command line down to its last subcommand, running nothing; click raises where it is wrong."""
    command: click.Command = _group(argv[0])
    words = list(argv[1:])
    context = click.Context(command, info_name=argv[0])
    while isinstance(command, click.Group) and not (words and words[0].startswith("-")):
        if not words:
            raise click.UsageError("a command is missing", context)
        name, found, rest = command.resolve_command(context, words)
        if found is None:
            raise click.UsageError(f"no command named {words[0]!r}", context)
        context = click.Context(found, parent=context, info_name=name)
        command, words = found, rest
    return command.make_context(command.name, words, parent=context.parent)


def _group(program: str) -> click.Group:
    from mer_cli import fs, zoo

    return {"mer-fs": fs.main, "mer-zoo": zoo.main}[program]
