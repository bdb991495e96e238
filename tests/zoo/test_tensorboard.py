"""Event files for TensorBoard."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from mer_featurestore import Store
from mer_zoo.errors import ZooError
from mer_zoo.runs import find_run
from mer_zoo.settings import Settings
from mer_zoo.train import train

if TYPE_CHECKING:
    from mer_zoo.training import Progress

OPTIONS = {"folds": 2, "params": {"hidden": 4}, "settings": Settings(epochs=3)}


def test_event_files_hold_the_history(store: Store, tmp_path: Path) -> None:
    """Each fold's losses and WAF of each epoch are in its event file; progress is still told."""
    pytest.importorskip("tensorboard", reason="needs the extra `tensorboard`")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    heard: list[Progress] = []
    result = train(store, "mlp", **OPTIONS, tensorboard=tmp_path / "tb", progress=heard.append)  # type: ignore[arg-type]  # a test's shorthand
    assert result.name == "mlp-1"
    assert len(heard) == 6
    for fold in find_run(store, "mlp-1").history:
        events = EventAccumulator(str(tmp_path / "tb" / "mlp-1" / fold["name"])).Reload()
        for tag in ("loss", "valid_loss", "waf"):
            written = [(e.step, e.value) for e in events.Scalars(tag)]
            assert written == [(e["epoch"], pytest.approx(e[tag], rel=1e-6)) for e in fold["epochs"]]


def test_without_tensorboard_the_remedy_is_told(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing package is one error before training that names the extra; nothing else needs it."""
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "mer_zoo.tensorboard.find_spec", lambda name: None if name == "tensorboard" else find(name)
    )
    with pytest.raises(ZooError, match=r"pip install 'mer-fs\[tensorboard\]'"):
        train(store, "mlp", **OPTIONS, tensorboard=tmp_path)  # type: ignore[arg-type]  # a test's shorthand
    assert train(store, "mlp", **OPTIONS).name == "mlp-1"  # type: ignore[arg-type]  # a test's shorthand
