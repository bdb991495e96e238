"""`mer-fs plugin check`: the conformance kit on one extractor, in a process of its own."""

import inspect
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor

Outcome = Literal["passed", "failed", "skipped"]

_MODULE = """
from pathlib import Path

import pytest

pytest.register_assert_rewrite("mer_plugins.testing")

from mer_plugins.adapters import read_folder
from mer_plugins.contract import Options
from mer_plugins.host import find_extractor
from mer_plugins.testing import ExtractorTests


class TestPlugin(ExtractorTests):
    card = find_extractor({name!r})
    options = Options(
        model={model!r}, revision={revision!r}, layers={layers!r}, device={device!r}, extra={extra!r},
        adapter=read_folder(Path({adapter!r})) if {adapter!r} else None, others={others!r},
    )
    bitwise = {bitwise!r}
"""


@dataclass(frozen=True, slots=True)
class Check:
    """One thing every extractor must do: its name, what must hold, how it went, and why it failed."""

    name: str
    rule: str
    outcome: Outcome
    reason: str = ""


def check(plugin: str, options: Options | None = None, *, bitwise: bool = False) -> list[Check]:
    """Run the conformance kit (`mer_plugins.testing`) on an extractor.

    Args:
        plugin: Its name.
        options: What to tell it, e.g. `model=` a small checkpoint.
        bitwise: Whether batches must leave every bit of a feature the same, and not only 1e-4.

    Returns:
        A result per check, in the kit's order.

    Raises:
        UnknownName: No such extractor or option.
        PluginError: It cannot be built, pytest is not installed, or the kit could not run.
    """
    options = options or Options()
    make_extractor(find_extractor(plugin), options)  # complains better than the kit would
    try:
        from mer_plugins.testing import ExtractorTests
    except ModuleNotFoundError as error:
        raise PluginError(f"checking needs {error.name}, not installed here", "pip install pytest") from error
    rules = {
        name: inspect.cleandoc(test.__doc__ or "")
        for name, test in vars(ExtractorTests).items()
        if name.startswith("test_")
    }
    with tempfile.TemporaryDirectory(prefix="mer-check-") as folder:
        report = _run(Path(folder), plugin, options, bitwise=bitwise)
    return [
        Check(name.removeprefix("test_"), rules.get(name, ""), outcome, reason)
        for name, outcome, reason in sorted(report, key=lambda row: list(rules).index(row[0]))
    ]


def _run(folder: Path, plugin: str, options: Options, *, bitwise: bool) -> list[tuple[str, Outcome, str]]:
    model = options.model
    if model and Path(model).expanduser().is_dir():
        model = str(Path(model).expanduser().resolve())  # the kit runs in another folder
    text = _MODULE.format(
        name=plugin, model=model, revision=options.revision, layers=options.layers, device=options.device,
        extra=dict(options.extra), bitwise=bitwise, others=options.others,
        adapter=str(options.adapter.folder.resolve()) if options.adapter else "",
    )  # fmt: skip
    (folder / "test_plugin.py").write_text(text, encoding="utf-8")
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    words = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider", "--tb=short"]
    done = subprocess.run(  # noqa: S603 - our own interpreter, our own file
        [*words, "--junitxml=report.xml", "test_plugin.py"],
        cwd=folder,
        env={k: v for k, v in os.environ.items() if k != "PYTEST_ADDOPTS"},
        capture_output=True,
        text=True,
        check=False,
    )
    report = folder / "report.xml"
    if not report.is_file():
        lines = (done.stderr or done.stdout).strip().splitlines() or [f"exit code {done.returncode}"]
        raise PluginError(f"the checks of {plugin} broke off: {lines[-1]}", "run its own tests with pytest")
    cases = ET.parse(report).getroot().iter("testcase")  # noqa: S314 - pytest wrote it just now
    return [_outcome(case) for case in cases if case.get("name", "").startswith("test_")]


def _outcome(case: ET.Element) -> tuple[str, Outcome, str]:
    name = case.get("name", "")
    for tag in ("failure", "error"):
        if (fault := case.find(tag)) is not None:
            return name, "failed", (fault.get("message") or tag).strip().splitlines()[0]
    if (left_out := case.find("skipped")) is not None:
        return name, "skipped", left_out.get("message") or ""
    return name, "passed", ""
