"""The frame every command stands in: lazy loading, errors as one line, exit codes."""

import errno
import json
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mer_cli import fs, zoo
from mer_cli.app import command, emit
from mer_featurestore.errors import MerError

GROUPS = {"mer-fs": fs.main, "mer-zoo": zoo.main}
HEAVY = ("torch", "transformers", "sklearn", "av", "cv2", "zarr", "h5py", "pandas", "matplotlib", "peft")


def every_command() -> list[tuple[str, str]]:
    """Return (program, command) for each row of both tables."""
    return [(group, name) for group, main in GROUPS.items() for name in main.lazy]


@pytest.mark.parametrize(("group", "name"), every_command())
def test_every_listed_command_exists_and_explains_itself(group: str, name: str) -> None:
    """A name in the table leads to a command whose --help works."""
    result = CliRunner().invoke(GROUPS[group], [name, "--help"])
    assert result.exit_code == 0, result.output
    assert "Usage:" in result.output


@pytest.mark.parametrize("program", GROUPS)
def test_help_imports_nothing_heavy_and_is_fast(program: str) -> None:
    """`--help` takes under half a second and leaves torch and its like alone."""
    module = "mer_cli.fs" if program == "mer-fs" else "mer_cli.zoo"
    code = (
        f"import sys\nfrom {module} import main\n"
        "try:\n    main(['--help'])\nexcept SystemExit:\n    pass\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    started = time.perf_counter()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.strip() == "[]"
    assert time.perf_counter() - started < 5  # generous: a loaded machine must not fail the suite


def test_an_unknown_command_is_corrected() -> None:
    """A typo gets "did you mean" and a non-zero exit."""
    result = CliRunner().invoke(fs.main, ["extrac"])
    assert result.exit_code == 2
    assert "did you mean 'extract'?" in result.output


def failing(error: Exception) -> click.Command:
    """Return a command that raises the error."""

    @command("fail")
    def fail() -> None:
        """Fail."""
        raise error

    return fail


def test_a_users_error_is_one_line_with_the_remedy() -> None:
    """What went wrong and the remedy, exit code 1, no traceback."""
    result = CliRunner().invoke(failing(MerError("no such thing", "make one")), [])
    assert (result.exit_code, result.output) == (1, "Error: no such thing; make one\n")


def test_an_unexpected_error_is_one_line_too() -> None:
    """A bug of ours shows its type and how to see the traceback."""
    result = CliRunner().invoke(failing(RuntimeError("boom")), [])
    assert result.exit_code == 1
    assert result.output == "Error: RuntimeError: boom; run again with --debug to see where\n"


def test_debug_lets_the_error_through() -> None:
    """With --debug the exception itself reaches the interpreter."""
    result = CliRunner().invoke(failing(RuntimeError("boom")), ["--debug"])
    assert isinstance(result.exception, RuntimeError)


def test_json_errors_are_json() -> None:
    """With --json an error is a document with message and remedy, still exit code 1."""
    result = CliRunner().invoke(failing(MerError("no such thing", "make one")), ["--json"])
    assert result.exit_code == 1
    assert json.loads(result.output) == {"error": "no such thing", "remedy": "make one"}


def test_an_os_error_names_the_file(tmp_path: Path) -> None:
    """Errors of the operating system name the file they are about, and what helps."""
    missing = tmp_path / "nowhere"
    result = CliRunner().invoke(failing(FileNotFoundError(2, "No such file or directory", str(missing))), [])
    remedy = "check the path, and that its folder exists"
    assert result.output == f"Error: No such file or directory: {missing}; {remedy}\n"


def test_a_reader_that_has_gone_is_no_error() -> None:
    """What is piped into `head` ends without a word on stderr."""

    @command("gone")
    def gone() -> None:
        raise BrokenPipeError(errno.EPIPE, "Broken pipe")

    result = CliRunner().invoke(gone)
    assert (result.exit_code, result.output) == (1, "")


@pytest.mark.parametrize(
    ("error", "remedy"),
    [
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "out/p.csv"), "its folder exists"),
        (PermissionError(errno.EACCES, "Permission denied", "out/p.csv"), "a place you may read and write"),
        (OSError(errno.ENOSPC, "No space left on device", "out/p.csv"), "make room"),
    ],
)
def test_what_the_system_refuses_has_a_remedy(error: OSError, remedy: str) -> None:
    """The operating system's word and the file, then what helps; apart from each other in JSON."""
    told = CliRunner().invoke(failing(error), []).output
    assert told.startswith(f"Error: {error.strerror}: out/p.csv; ")
    assert remedy in told
    document = json.loads(CliRunner().invoke(failing(error), ["--json"]).output)
    assert document["error"] == f"{error.strerror}: out/p.csv"
    assert remedy in document["remedy"]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["export", "x", "--to", "y", "--format", "numpy"], "'numpy' is not one of"),
        (["labels", "difff"], "did you mean 'diff'?"),
        (["clips", "--bogus"], "--bogus"),
    ],
)
def test_wrong_words_are_told_in_json_too(words: list[str], told: str) -> None:
    """With `--json` a usage error is one JSON document with exit code 2; without it, click's own words."""
    result = CliRunner().invoke(fs.main, [*words, "--json"])
    assert result.exit_code == 2
    assert told in json.loads(result.stdout)["error"]
    plain = CliRunner().invoke(fs.main, words)
    assert plain.exit_code == 2
    assert plain.stdout == ""


def test_ctrl_c_says_that_nothing_is_lost() -> None:
    """Ctrl-C ends with 130 and no traceback."""

    @command("wait")
    def wait() -> None:
        """Wait."""
        raise KeyboardInterrupt

    result = CliRunner().invoke(wait, [])
    assert result.exit_code == 130
    assert "what was committed is kept" in result.output


def test_emit_prints_json_or_calls_the_printer() -> None:
    """One document with --json, the human form without."""

    @command("show")
    def show() -> None:
        """Show."""
        emit({"a": 1}, lambda: click.echo("a is one"))

    assert CliRunner().invoke(show, []).output == "a is one\n"
    assert json.loads(CliRunner().invoke(show, ["--json"]).output) == {"a": 1}
