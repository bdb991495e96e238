"""The documents say what the code does."""

import re
import tomllib
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from mer_cli import fs, reference, zoo

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROGRAMS = {"mer-fs": fs.main, "mer-zoo": zoo.main}


def commands_in(page: Path) -> list[str]:
    """Return the mer-fs and mer-zoo command lines of a page's code blocks, continuations joined."""
    blocks = re.findall(
        r"^```(?:bash|console|sh)\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    text = "\n".join(blocks).replace("\\\n", " ")
    return re.findall(r"^(?:\$ )?(mer-(?:fs|zoo) .*?)(?:\s+#.*)?$", text, re.MULTILINE)


def test_the_command_reference_is_fresh() -> None:
    """docs/cli.md is what the commands' --help prints today; `make docs` writes it anew."""
    assert Path("docs/cli.md") == reference.PAGE
    assert (ROOT / reference.PAGE).read_text(encoding="utf-8") == reference.render()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_in_the_docs_exist_with_those_options(page: Path) -> None:
    """Each command shown has that name, and knows every option it is shown with."""
    for line in commands_in(page):
        words = line.split()
        command: click.Command = PROGRAMS[words[0]]
        rest = words[1:]
        while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
            child = command.get_command(click.Context(command), rest[0])
            assert child is not None or command.invoke_without_command, line
            if child is None:
                break
            command, rest = child, rest[1:]
        known = {o for p in command.params for o in (*p.opts, *p.secondary_opts)} | {"--help", "-h"}
        used = {w.split("=")[0] for w in rest if re.match(r"--?[a-z]", w)}
        assert used <= known | {"--version"}, f"{page.name}: {line}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "CONTRIBUTING.md"], ids=lambda p: p.name)
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    """Relative links name files that exist."""
    for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#]+)", page.read_text(encoding="utf-8")):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_version_is_told_in_one_voice() -> None:
    """`--version` is the version of pyproject.toml, and the changelog has a heading."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert version in CliRunner().invoke(fs.main, ["--version"]).output
    assert re.search(
        rf"^## (Unreleased|{re.escape(version)})", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
