"""Noise for the dropouts of a stack: drawn at once for all of them, by each member's own generator."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor, nn

from mer_zoo.contract import Sequences
from mer_zoo.models.blocks import WORD, Dropout, draw_words, to_multipliers_


class UnstackableError(Exception):
    """A model whose members cannot share one computation."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the noise of each of k dropouts lies in one row of noise, for batches of one shape.

    Attributes:
        shapes: What each dropout is given, in the order of the calls.
        places: Its part of the row, in 64-bit words.
        threshold: float32 `[M, k]`, or `[M, 1]` where all of a member's are the same: noise below drops.
        scale: float32, likewise: what is kept is multiplied with.
    """

    shapes: dict[str, torch.Size]
    places: list[slice]
    threshold: Tensor
    scale: Tensor

    @property
    def size(self) -> int:
        """Words in a row."""
        return int(self.places[-1].stop)


class Noise:
    """Draws what the `Dropout` modules of M members multiply with.

    On a CPU each member draws from a generator of its own, as the loop does; on a GPU the first one's seed
    serves for all.

    Args:
        modules: The members' models, of equal shape; the first is traced to see what its dropouts are given.
        seeds: One per member.
        device: Where they train.

    Raises:
        UnstackableError: The model has random layers other than our own.
    """

    def __init__(self, modules: Sequence[nn.Module], seeds: Sequence[int], device: torch.device) -> None:
        self.module, self.device = modules[0], device
        self.sources = [np.random.SFC64(seed) for seed in seeds]
        self.common = torch.Generator(device).manual_seed(seeds[0])
        foreign = [m for m in self.module.modules() if isinstance(m, nn.modules.dropout._DropoutNd)]  # noqa: SLF001 - the base of all of torch's
        if foreign:
            raise UnstackableError(f"{foreign[0]} draws its own noise")
        self.dropouts = [_dropouts(module) for module in modules]
        self.layouts: dict[tuple[int, ...], Layout] = {}
        # Memory that is used in every step: fresh memory would cost page faults each time.
        self.words = torch.empty(0, dtype=torch.int64, device=device)
        self.values = torch.empty(0, device=device)

    def draw(self, batch: Mapping[str, Sequences], active: Sequence[bool]) -> dict[str, Tensor]:
        """Return the multipliers `[M, …]` of each dropout; only members that are active move on in theirs."""
        if not self.dropouts[0]:
            return {}
        layout = self._layout(batch)
        self._reserve(len(self.sources) * layout.size)
        words = self.words[: len(self.sources) * layout.size].view(-1, layout.size)
        if self.device.type == "cpu":
            rows = words.numpy()
            for row, source in enumerate(self.sources):
                if active[row]:
                    rows[row] = draw_words(source, layout.size)
        else:
            words.random_(-(2**63), None, generator=self.common)
        noise = self.values[: WORD * words.numel()].view(len(words), -1).copy_(words.view(torch.int16))
        parts = [noise[:, WORD * place.start : WORD * place.stop] for place in layout.places]
        whole = [noise] if layout.scale.shape[1] == 1 else parts
        columns = zip(whole, layout.threshold.unbind(1), layout.scale.unbind(1), strict=True)
        for part, threshold, scale in columns:
            to_multipliers_(part, threshold[:, None], scale[:, None])
        return {
            f"{name}.multiplier": part[:, : shape.numel()].view(-1, *shape)
            for (name, shape), part in zip(layout.shapes.items(), parts, strict=True)
        }

    def _reserve(self, words: int) -> None:
        if len(self.words) < words:
            self.words = torch.zeros(words, dtype=torch.int64, device=self.device)
            self.values = torch.empty(WORD * words, device=self.device)

    def keep(self, rows: Sequence[int]) -> None:
        """Let all but these members leave."""
        self.sources = [self.sources[row] for row in rows]
        self.dropouts = [self.dropouts[row] for row in rows]
        self.layouts = {}

    def _layout(self, batch: Mapping[str, Sequences]) -> Layout:
        """Return the layout for batches of this shape, found by one pass of one member."""
        signature = tuple(size for seq in batch.values() for size in seq.mask.shape[1:])
        if signature not in self.layouts:
            shapes = self._trace(batch)
            ends = list(accumulate((-(-shape.numel() // WORD) for shape in shapes.values()), initial=0))
            rows = [[each[name] for name in shapes] for each in self.dropouts]
            threshold = torch.tensor([[float(d.threshold) for d in row] for row in rows])
            scale = torch.tensor([[d.scale for d in row] for row in rows])
            same = bool((scale == scale[:, :1]).all())
            self.layouts[signature] = Layout(
                shapes,
                [slice(start, stop) for start, stop in pairwise(ends)],
                threshold[:, : 1 if same else None].to(self.device),
                scale[:, : 1 if same else None].to(self.device),
            )
        return self.layouts[signature]

    @torch.no_grad()
    def _trace(self, batch: Mapping[str, Sequences]) -> dict[str, torch.Size]:
        shapes: dict[str, torch.Size] = {}

        def note(name: str, x: Tensor) -> None:
            if name in shapes:
                raise UnstackableError(f"the dropout {name} is used twice in one pass")
            shapes[name] = x.shape

        hooks = [
            m.register_forward_pre_hook(lambda _, x, name=name: note(name, x[0]))
            for name, m in _dropouts(self.module).items()
        ]
        try:
            self.module.eval()({name: Sequences(seq.features[0], seq.mask[0]) for name, seq in batch.items()})
        finally:
            self.module.train()
            for hook in hooks:
                hook.remove()
        return shapes


def _dropouts(module: nn.Module) -> dict[str, Dropout]:
    return {name: m for name, m in module.named_modules() if isinstance(m, Dropout) and m.rate > 0}
