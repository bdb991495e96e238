"""The demo: a small one from nothing to report, and every way it can end early."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result

from mer_cli import demo, fs, zoo
from mer_cli.demo import CLAIM, Plan, Step, is_done, run_demo
from mer_featurestore import Store

GROUPS = {"mer-fs": fs.main, "mer-zoo": zoo.main}
# Few epochs make unsure models: they vote with what they have.
SMALL = ("--clips", "45", "--epochs", "3", "--threshold", "0.1")


def mer_fs(*words: str | Path) -> Result:
    """Run mer-fs in this process."""
    return CliRunner().invoke(fs.main, [str(word) for word in words])


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """Return the folder and the output of one small demo."""
    folder = tmp_path_factory.mktemp("demo") / "d"
    return folder, mer_fs("demo", folder, *SMALL)


def printed_lines(result: Result) -> list[str]:
    """Return the commands a demo printed."""
    return [line[2:] for line in result.stdout.splitlines() if line.startswith("$ ")]


def test_demo_goes_from_nothing_to_a_report(ran: tuple[Path, Result]) -> None:
    """It ends well, with a report, a table of three runs, and the corpus called synthetic at both ends."""
    folder, result = ran
    assert result.exit_code == 0, result.output
    assert (folder / "report" / "report.html").is_file()
    assert result.stdout.startswith(CLAIM)
    table = result.stdout.split("Test clips:")[1]
    assert [line.split()[0] for line in table.splitlines()[2:5]] == [
        "supervised",
        "after-round1",
        "after-round2",
    ]
    assert "The corpus is synthetic" in table
    assert str(folder / "store") in table


def test_printed_commands_are_those_in_the_journal(ran: tuple[Path, Result]) -> None:
    """What the store says made it is what the demo printed, letter by letter."""
    folder, result = ran
    commits = reversed(list(Store.open(folder / "store").log()))
    journal = list(dict.fromkeys(commit.command for commit in commits))  # a report makes a commit per run
    printed = printed_lines(result)
    assert len(printed) == len(Plan(folder).steps())
    assert [line for line in printed if line in journal] == journal


def test_broken_clips_are_in_quarantine_and_the_rest_is_there(ran: tuple[Path, Result]) -> None:
    """Six broken clips cost the demo only themselves."""
    store = Store.open(ran[0] / "store")
    assert len(store.clips) == 51
    held = {name: store.features.quarantine(name) for name in store.features}
    assert 5 <= len(set().union(*held.values())) <= 12
    assert all(len(store.features[name]) + len(reasons) == 51 for name, reasons in held.items())


def test_demo_again_finds_everything_done(ran: tuple[Path, Result]) -> None:
    """A second run in the folder makes no commit, and --json tells the same scores as the store."""
    store = Store.open(ran[0] / "store")
    again = mer_fs("demo", ran[0], *SMALL, "--json")
    assert again.exit_code == 0, again.output
    document = json.loads(again.stdout)
    assert Store.open(ran[0] / "store").commit == store.commit
    for row in document["runs"]:
        record = store.runs[f"{row['run']}.test-1"]
        assert (row["waf"], row["uar"]) == (record.attrs["waf"], record.attrs["uar"])
        assert row["pseudo"] == store.runs[row["run"]].attrs["pseudo"]
    assert document["runs"][0]["pseudo"] == 0 < document["runs"][1]["pseudo"]
    assert Path(document["report"]).is_file()


def parsed(line: str) -> click.Context:
    """Parse a command line down to its last subcommand, running nothing; click raises where it is wrong."""
    program, *words = shlex.split(line)
    command: click.Command = GROUPS[program]
    context = click.Context(command, info_name=program)
    while isinstance(command, click.Group):
        name, *words = words
        found = command.get_command(context, name)
        assert found is not None, line
        command = found
    return command.make_context(command.name, words, parent=context)


def test_every_line_can_be_pasted(tmp_path: Path) -> None:
    """Steps and suggestions, of a folder with a space in its name too, are commands with such options."""
    plan = Plan(tmp_path / "my demo", clips=90, epochs=2, seed=4)
    lines = [step.line for step in plan.steps()] + plan.next_lines()
    assert len(lines) > 20
    for line in lines:
        assert parsed(line).params.get("store_url", plan.store) == plan.store


def test_next_lines_work(ran: tuple[Path, Result]) -> None:
    """What the demo suggests at its end runs in the store it made."""
    lines = re.findall(r"^  (mer-(?:fs|zoo) .*)$", ran[1].stdout, re.MULTILINE)
    assert lines == Plan(ran[0]).next_lines()
    for line in lines:
        if " train " not in line:
            program, *words = shlex.split(line)
            result = CliRunner().invoke(GROUPS[program], words)
            assert result.exit_code == 0, (line, result.output)


def test_other_corpus_in_the_folder_stops_the_demo(ran: tuple[Path, Result]) -> None:
    """The step that failed is named, with how to go on, one error line, and exit code 1."""
    result = mer_fs("demo", ran[0], "--clips", "46")
    assert result.exit_code == 1
    assert "Failed at: Write a corpus of real media files." in result.stderr
    assert f"mer-fs demo {ran[0]} --clips 46" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("Error: ")


@pytest.mark.parametrize(("stop", "code"), [(KeyboardInterrupt(), 130), (click.exceptions.Exit(130), 130)])
def test_interrupted_demo_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException, code: int
) -> None:
    """Ctrl-C between or within commands ends it with 130; the store so far opens."""
    real, calls = demo.run_line, []

    def run_line(argv: tuple[str, ...]) -> None:
        calls.append(argv)
        if argv[1] == "ingest":
            raise stop
        if argv[1] == "init":
            real(argv)

    monkeypatch.setattr(demo, "run_line", run_line)
    result = mer_fs("demo", tmp_path)
    assert result.exit_code == code
    assert "Stopped at: Take in the catalogue" in result.stderr
    assert f"to go on: mer-fs demo {tmp_path}" in result.stderr
    assert Store.open(tmp_path / "store").commit == 0
    assert len(calls) == 3


def test_done_steps_are_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step is done when what it makes is in the store; one that makes nothing is always run."""
    store = str(tmp_path / "store")
    assert not is_done(Step("", (), "store"), store)
    Store.create(store)
    assert is_done(Step("", (), "store"), store)
    assert not is_done(Step("", (), "runs/supervised"), store)
    assert not is_done(Step("", ()), store)
    asked: list[Any] = []
    monkeypatch.setattr(demo, "run_line", asked.append)
    monkeypatch.setattr(demo, "results", lambda plan: [{"plan": plan}])
    assert run_demo(Plan(tmp_path)) == [{"plan": Plan(tmp_path)}]
    assert len(asked) == len(Plan(tmp_path).steps()) - 1


def test_corpus_only_writes_a_corpus_and_no_store(tmp_path: Path) -> None:
    """`--corpus-only` stops after the media, and needs a folder."""
    result = mer_fs("demo", "--corpus-only", tmp_path / "c", "--clips", "30", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["clips"] == 36
    assert {path.name for path in tmp_path.iterdir()} == {"c"}
    refused = mer_fs("demo", "--corpus-only")
    assert refused.exit_code == 2
    assert "--corpus-only needs a folder" in refused.stderr
