"""Fixtures of the extraction tests."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mer_featurestore import Clip, Store
from mer_plugins import host
from mer_plugins.samples import sample_clips
from support.checkpoints import whisper
from support.tiny import MAKERS

THIRD_PARTY = Path(__file__).parent / "third_party"


@pytest.fixture
def install(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that installs plugins of `third_party/` for one test, as if by pip."""
    loaded = set(sys.modules)

    def install(*names: str) -> None:
        for name in names:
            monkeypatch.syspath_prepend(str(THIRD_PARTY / name))
        paths = [str(THIRD_PARTY / name) for name in names]
        monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))
        host.reload()

    yield install
    monkeypatch.undo()
    for name in set(sys.modules) - loaded:
        if name.startswith("mer_") and "." not in name:
            del sys.modules[name]
    host.reload()


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the folder of a family's tiny checkpoint, made when first asked for; to read only."""
    root = tmp_path_factory.mktemp("bases")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            (root / name).mkdir()
            (whisper if name == "whisper" else MAKERS[name])(root / name)
        return root / name

    return folder


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Return a store with four clips of each modality, two of them of split `test`."""
    store = Store.create(tmp_path / "store")
    clips: list[Clip] = []
    for modality in ("audio", "video", "text"):
        clips += sample_clips(tmp_path, modality)
    store.clips.add(
        Clip(
            key=c.key, audio=c.audio, video=c.video, text=c.text, split="test" if c.key[-1] > "1" else "train"
        )
        for c in clips
    )
    return store
