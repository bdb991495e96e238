"""Losses and WAF as TensorBoard event files, written while members train."""

import contextlib
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch.utils.tensorboard import SummaryWriter

    from mer_zoo.training import Progress, ProgressCallback


@contextlib.contextmanager
def event_files(
    folder: Path | None, run: str, progress: "ProgressCallback | None" = None
) -> "Iterator[ProgressCallback | None]":
    """Give a callback for `fit` that writes event files and then calls `progress`.

    Args:
        folder: Where to, each fold as `<run>/fold-<k>`; None writes nothing.
        run: Name of the run.
        progress: What else to call.

    Raises:
        ZooError: tensorboard is not installed.
    """
    if folder is None:
        yield progress
        return
    if find_spec("tensorboard") is None:
        raise ZooError(
            "event files need tensorboard, which is not installed", "pip install 'mer-fs[tensorboard]'"
        )
    writers: dict[int, SummaryWriter] = {}

    def told(now: "Progress") -> None:
        from torch.utils.tensorboard import SummaryWriter

        if now.member not in writers:
            writers[now.member] = SummaryWriter(folder / run / f"fold-{now.member}")
        for tag in ("loss", "valid_loss", "waf"):
            writers[now.member].add_scalar(tag, getattr(now, tag), now.epoch)
        if progress is not None:
            progress(now)

    try:
        yield told
    finally:
        for writer in writers.values():
            writer.close()
