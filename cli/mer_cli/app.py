"""What every command shares: lazy loading, `--store`, `--json`, `--debug`, errors as one line, exit codes."""

import errno
import functools
import importlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from mer_featurestore.errors import MerError, suggest

if TYPE_CHECKING:
    from mer_featurestore import Store

Command = TypeVar("Command", bound=Callable[..., Any])
HELP = {"help_option_names": ["-h", "--help"]}


class LazyGroup(click.Group):
    """A group whose commands are imported when called: `{name: ("module:attribute", "short help")}`."""

    def __init__(self, *args: Any, lazy: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:
        super().__init__(*args, **{"context_settings": HELP, **kwargs})
        self.lazy = lazy

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """Return the names in the order of the table, which is the order of use."""
        return list(self.lazy)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """Import the command's module and return the command."""
        if cmd_name not in self.lazy:
            return None
        module, attribute = self.lazy[cmd_name][0].split(":")
        command: click.Command = getattr(importlib.import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Say "did you mean" for a command that does not exist."""
        if args and args[0] not in self.lazy and not args[0].startswith("-"):
            raise click.UsageError(f"no command named {args[0]!r}; {suggest(args[0], self.lazy)}", ctx)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; what is wrong with its words is told as JSON when `--json` is among them."""
        asked = "--json" in ctx.args
        try:
            return super().invoke(ctx)
        except click.UsageError as error:
            if not asked:
                raise
            told = error.ctx.command_path if error.ctx else ctx.command_path
            raise JsonUsageError(error.format_message(), f"see {told} --help") from error

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """List the commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self.lazy.items()])


def command(
    name: str, *, cls: type[click.Command] = click.Command, **kwargs: Any
) -> Callable[[Command], click.Command]:
    """Make a click command (or, with `cls`, a group) that also takes `--json` and `--debug`."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @click.option("--json", "as_json", is_flag=True, help="Print one JSON document for machines.")
        @click.option("--debug", is_flag=True, help="Show tracebacks.")
        @functools.wraps(function)
        def run(*args: Any, as_json: bool, debug: bool, **options: Any) -> Any:
            context = click.get_current_context()
            context.obj = {"json": as_json}
            try:
                return function(*args, **options)
            except (click.ClickException, click.exceptions.Exit, click.Abort):
                raise
            except BrokenPipeError:  # `| head` has read enough; click leaves quietly
                raise
            except KeyboardInterrupt:
                click.echo("Interrupted; what was committed is kept.", err=True)
                context.exit(130)
            except Exception as error:  # every error of a command ends here, and nowhere else
                if debug:
                    raise
                raise CommandError(error, as_json) from error

        return click.command(name, cls=cls, **{"context_settings": HELP, **kwargs})(run)

    return decorate


class JsonUsageError(click.ClickException):
    """Words that cannot be parsed: one JSON document, exit code 2."""

    exit_code = 2

    def __init__(self, message: str, remedy: str) -> None:
        super().__init__(message)
        self.remedy = remedy

    def show(self, file: Any = None) -> None:
        """Print it."""
        click.echo(json.dumps({"error": self.message, "remedy": self.remedy}), file=file or sys.stdout)


class CommandError(click.ClickException):
    """A user's error: one line on stderr (or one JSON document with `--json`), exit code 1."""

    def __init__(self, error: Exception, as_json: bool) -> None:
        super().__init__(_one_line(error))
        self.error, self.as_json = error, as_json

    def show(self, file: Any = None) -> None:
        """Print it."""
        if self.as_json:
            remedy = getattr(self.error, "remedy", _system_remedy(self.error))
            message = getattr(self.error, "message", self.message.removesuffix(f"; {remedy}"))
            click.echo(json.dumps({"error": message, "remedy": remedy}), file=file or sys.stdout)
        else:
            click.echo(f"Error: {self.message}", err=True)


def _one_line(error: Exception) -> str:
    if isinstance(error, MerError):
        return str(error)
    if isinstance(error, OSError) and error.strerror:
        told = f"{error.strerror}: {error.filename}" if error.filename else error.strerror
        return f"{told}; {_system_remedy(error)}"
    return f"{type(error).__name__}: {error}; run again with --debug to see where"


def _system_remedy(error: Exception) -> str:
    """Return what helps when the operating system refuses; empty for other errors."""
    if not isinstance(error, OSError) or not error.strerror:
        return ""
    if isinstance(error, FileNotFoundError):
        return "check the path, and that its folder exists"
    if isinstance(error, PermissionError) or error.errno == errno.EROFS:
        return "name a place you may read and write"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "make room, then run the same command again"
    return "run again with --debug to see where"


def store_option(function: Command) -> Command:
    """Add `--store`, else `MER_STORE`, else `./mer-store`; the command gets `store_url`."""
    return click.option(
        "--store",
        "store_url",
        envvar="MER_STORE",
        default="mer-store",
        show_default=True,
        show_envvar=True,
        help="The store's folder or URL.",
    )(function)


def at_option(function: Command) -> Command:
    """Add `--at N`, which reads the store as it was at commit N."""
    return click.option("--at", type=int, metavar="N", help="Read the store as of commit N.")(function)


def open_store(store_url: str, at: int | None = None) -> "Store":
    """Open a store for a command."""
    from mer_featurestore import Store

    return Store.open(store_url, at=at)


def emit(document: Any, human: Callable[[], None]) -> None:
    """Print the JSON document when `--json` was given, else call `human` to print for a person."""
    if click.get_current_context().obj["json"]:
        try:
            text = json.dumps(document, ensure_ascii=False, default=str, allow_nan=False)
        except ValueError:  # JSON has no NaN and no infinity: what is not known is null
            text = json.dumps(_without_nan(document), ensure_ascii=False, default=str)
        click.echo(text)
    else:
        human()


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; columns whose every value is a number are right-aligned."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    grid = Table(title=title or None, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for i, column in enumerate(columns):
        numeric = bool(rows) and all(isinstance(row[i], (int, float)) for row in rows)
        grid.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for row in rows:
        # Square brackets in a cell, as in mer-fs[video], are text and no markup.
        grid.add_row(*("" if cell is None else escape(str(cell)) for cell in row))
    console = Console()
    if not console.is_terminal:  # a pipe or a file has no width to wrap to
        console = Console(width=10_000)
    console.print(grid)


def command_line() -> str:
    """Return the command as typed, for the journal."""
    context = click.get_current_context()
    shown = context.meta.get("mer_cli.command_line")
    if shown:
        return str(shown)
    import shlex
    from pathlib import Path

    return shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
