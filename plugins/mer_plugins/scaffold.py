"""`mer-fs plugin new`: a complete plugin package to start from, with its test."""

import importlib.util
import re
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template

from mer_featurestore.errors import UnknownName
from mer_featurestore.records import MODALITIES
from mer_plugins.errors import PluginError
from mer_plugins.host import extractor_cards

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
# What the test of each modality's template tries out.
_TRIES: Mapping[str, Mapping[str, str]] = {
    "audio": {
        "option": "step",
        "other_value": "0.05",
        "other_name": "Finer",
        "says": "A full-scale square wave is 0 dB loud and crosses zero between all its samples.",
        "example": "np.tile(np.array([1, -1], np.float32), 1600)",
        "expected": "[[0, 1], [0, 1]]",
    },
    "video": {
        "option": "fps",
        "other_value": "10",
        "other_name": "Faster",
        "says": "A white frame is all ones, a black one all zeros.",
        "example": "np.stack([np.full((4, 4, 3), value, np.uint8) for value in (255, 0)])",
        "expected": "[[1, 1, 1], [0, 0, 0]]",
    },
    "text": {
        "option": "longest",
        "other_value": "3",
        "other_name": "Short",
        "says": "Letters are counted, and capitals seen.",
        "example": '["Oh", "dear"]',
        "expected": "[[2, 1], [4, 0]]",
    },
}


def new_plugin(name: str, modality: str = "audio", to: Path | None = None) -> list[Path]:
    """Write a plugin package that works: `pyproject.toml`, one module, its test, a README.

    Args:
        name: Of the package, its entry point and its extractor, e.g. `my-encoder`.
        modality: `audio`, `video` or `text`.
        to: The package's folder; by default one of its name here.

    Returns:
        The files written.

    Raises:
        PluginError: The name cannot be one, or is taken by an extractor or an importable module; the folder
            has something in it.
        UnknownName: No such modality.
    """
    if modality not in MODALITIES:
        raise UnknownName("modality", modality, MODALITIES)
    module = _module(name)
    folder = Path(name) if to is None else to
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PluginError(f"{folder} is there already and not empty", "name another folder with --to DIR")
    words = {
        "name": name,
        "module": module,
        "class_name": "".join(part.capitalize() for part in name.split("-")),
        **_TRIES[modality],
    }
    written = []
    for template, file in (
        ("pyproject.toml", "pyproject.toml"),
        (f"{modality}.py", f"{module}.py"),
        ("test.py", f"tests/test_{module}.py"),
        ("README.md", "README.md"),
    ):
        target = folder / file
        target.parent.mkdir(parents=True, exist_ok=True)
        text = (files("mer_plugins") / "templates" / f"{template}.tmpl").read_text(encoding="utf-8")
        target.write_text(Template(text).substitute(words), encoding="utf-8")
        written.append(target)
    return written


def _module(name: str) -> str:
    """Return the name's module, if both can be had."""
    if not _NAME.fullmatch(name):
        raise PluginError(
            f"{name!r} cannot name a plugin", "use lower-case letters, digits and single hyphens: my-encoder"
        )
    module = name.replace("-", "_")
    if name in extractor_cards():
        raise PluginError(f"there is an extractor {name!r} already", "choose another name")
    if importlib.util.find_spec(module) is not None:
        raise PluginError(f"there is a Python module {module!r} already", "choose another name")
    return module
