"""A conformance kit for fusion models: subclass `ModelTests` in your own test suite.

```python
from mer_zoo.testing import ModelTests


class TestMine(ModelTests):
    card = my_card
    params = {"hidden": 16}
```

Run it with pytest. Every test says what must hold of any fusion model of this zoo.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from mer_zoo.contract import Batch, ModelCard, Output, Sequences
from mer_zoo.registry import build_model

CLASSES = 3


def random_batch(
    inputs: Mapping[str, int], clips: int = 6, *, frames: int = 5, seed: int = 0, missing: bool = False
) -> dict[str, Sequences]:
    """Make a batch of unequal sequence lengths from 1 up.

    Args:
        inputs: Width D per modality.
        clips: B.
        frames: T at most; 1 makes single vectors.
        seed: Decides everything.
        missing: Whether clip i lacks modality i, for as many modalities as there are (never all of them).
    """
    generator = torch.Generator().manual_seed(seed)
    batch = {}
    for i, (name, width) in enumerate(inputs.items()):
        length = torch.randint(1, frames + 1, (clips, 1), generator=generator)
        length[0] = frames
        if missing and len(inputs) > 1:
            length[i] = 0
        features = torch.randn(clips, frames, width, generator=generator)
        batch[name] = Sequences(features, torch.arange(frames) < length)
    return batch


def padded(batch: Batch, extra: int, fill: float) -> dict[str, Sequences]:
    """Return the batch with `extra` frames of padding behind, and all padding filled with `fill`."""
    out = {}
    for name, (features, mask) in batch.items():
        mask = nn.functional.pad(mask, (0, extra))
        features = nn.functional.pad(features, (0, 0, 0, extra))
        out[name] = Sequences(features.masked_fill(~mask.unsqueeze(-1), fill), mask)
    return out


def rows(batch: Batch, index: list[int]) -> dict[str, Sequences]:
    """Return some clips of a batch."""
    return {name: Sequences(seq.features[index], seq.mask[index]) for name, seq in batch.items()}


class ModelTests:
    """What must hold of every fusion model.

    Attributes:
        card: The model's card.
        params: Parameters that make it small; the rest are its defaults.
        inputs: Widths it is tested with.
        tolerance: Of outputs that must be equal.
        steps: Adam steps within which it must learn the toy problem.
        lr: Their learning rate.
    """

    card: ModelCard
    params: Mapping[str, Any] = MappingProxyType({})
    inputs: Mapping[str, int] = MappingProxyType({"audio": 7, "video": 6, "text": 5})
    tolerance: float = 1e-5
    steps: int = 80
    lr: float = 5e-3

    def model(self, inputs: Mapping[str, int] | None = None, seed: int = 0) -> nn.Module:
        """Build the model, the same every time."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(self.card, inputs or self.inputs, CLASSES, self.params)

    def batch(self, **options: Any) -> dict[str, Sequences]:
        """Make a batch, of single vectors where the model reads no sequences."""
        return random_batch(self.inputs, **{"frames": 5 if self.card.frames else 1, **options})

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return logits in evaluation mode."""
        with torch.no_grad():
            out: Output = model.eval()(batch)
        return out.logits

    def close(self, a: Tensor, b: Tensor) -> None:
        """Check that two outputs are equal within the tolerance."""
        torch.testing.assert_close(a, b, atol=self.tolerance, rtol=self.tolerance)

    def test_output_shapes(self) -> None:
        """Logits are finite float32 `[B, C]` and extra losses finite scalars, training or not."""
        model = self.model()
        for training in (True, False):
            out = model.train(training)(self.batch())
            assert out.logits.shape == (6, CLASSES)
            assert out.logits.dtype == torch.float32
            assert bool(out.logits.isfinite().all())
            assert all(loss.shape == () and bool(loss.isfinite()) for loss in out.losses.values())

    def test_single_vectors(self) -> None:
        """Utterance-level input, T = 1, works."""
        assert self.logits(self.model(), self.batch(frames=1)).shape == (6, CLASSES)

    def test_padding_never_changes_an_output(self) -> None:
        """More padding, and whatever is in it (even NaN), leaves the output as it is."""
        model, batch = self.model(), self.batch(missing=True)
        expected = self.logits(model, padded(batch, 0, 0.0))
        for extra, fill in ((0, 1e4), (3, 0.0), (3, -1e4), (2, float("nan"))):
            self.close(self.logits(model, padded(batch, extra, fill)), expected)

    def test_padding_never_changes_a_gradient(self) -> None:
        """What is in the padding reaches no parameter."""
        clean, dirty = self.model(), self.model()
        batch = self.batch(missing=True)
        for model, fill in ((clean, 0.0), (dirty, float("nan"))):
            out = model.eval()(padded(batch, 2, fill))
            (out.logits.square().sum() + sum(out.losses.values())).backward()
        for a, b in zip(clean.parameters(), dirty.parameters(), strict=True):
            if a.grad is not None:
                self.close(b.grad if b.grad is not None else torch.zeros_like(a), a.grad)

    def test_companions_never_change_an_output(self) -> None:
        """A clip's output is the same alone, among others, and in any place of the batch."""
        model, batch = self.model(), self.batch(missing=True)
        together = self.logits(model, batch)
        for i in range(len(together)):
            self.close(self.logits(model, rows(batch, [i]))[0], together[i])
        order = [3, 1, 5, 0, 4, 2]
        self.close(self.logits(model, rows(batch, order)), together[order])

    def test_a_missing_modality_is_not_read(self) -> None:
        """Where a clip lacks a modality, what stands in its place changes nothing; the output is finite."""
        model, batch = self.model(), self.batch(missing=True)
        expected = self.logits(model, batch)
        assert bool(expected.isfinite().all())
        self.close(self.logits(model, padded(batch, 0, 77.0)), expected)

    def test_a_modality_may_be_absent_altogether(self) -> None:
        """A batch without a modality equals one in which all clips lack it."""
        model, batch = self.model(), self.batch()
        for name in self.inputs if len(self.inputs) > 1 else ():
            masked = {**batch, name: Sequences(batch[name].features, torch.zeros_like(batch[name].mask))}
            without = {other: seq for other, seq in batch.items() if other != name}
            self.close(self.logits(model, without), self.logits(model, masked))

    def test_fewer_modalities(self) -> None:
        """It can be built for any number of modalities its card allows."""
        least, most = self.card.modalities
        names = list(self.inputs)
        for count in range(least, min(most, len(names)) + 1):
            for first in range(len(names) - count + 1):
                inputs = {name: self.inputs[name] for name in names[first : first + count]}
                frames = 4 if self.card.frames else 1
                out = self.logits(self.model(inputs), random_batch(inputs, frames=frames))
                assert bool(out.isfinite().all())

    def test_gradients_reach_every_parameter(self) -> None:
        """No parameter is dead: each gets a gradient that is not zero from some batch."""
        model = self.model().train()
        for seed in range(3):
            out = model(self.batch(clips=12, seed=seed, missing=True))
            (out.logits.square().sum() + sum(out.losses.values())).backward()
        dead = [n for n, p in model.named_parameters() if p.grad is None or not bool(p.grad.any())]
        assert dead == []

    def test_state_dict_round_trip(self) -> None:
        """A model loaded from another's state dict is that model."""
        first, second = self.model(seed=1), self.model(seed=2)
        second.load_state_dict(first.state_dict())
        batch = self.batch()
        assert torch.equal(self.logits(first, batch), self.logits(second, batch))

    def test_evaluation_is_deterministic(self) -> None:
        """In evaluation mode the same input gives the same output."""
        model, batch = self.model(), self.batch()
        assert torch.equal(self.logits(model, batch), self.logits(model, batch))

    def test_it_learns(self) -> None:
        """It fits a toy problem: the class decides the mean of each modality."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.model()
            batch, label = self._toy()
            optimizer = torch.optim.Adam(model.parameters(), lr=self.lr)
            for _ in range(self.steps):
                out = model.train()(batch)
                loss = nn.functional.cross_entropy(out.logits, label) + sum(out.losses.values())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            accuracy = (self.logits(model, batch).argmax(1) == label).float().mean()
        assert float(accuracy) > 0.9

    def _toy(self) -> tuple[dict[str, Sequences], Tensor]:
        label = torch.arange(30) % CLASSES
        batch = self.batch(clips=30, missing=True)
        generator = torch.Generator().manual_seed(9)
        found = {}
        for name, (features, mask) in batch.items():
            means = torch.randn(CLASSES, 1, features.shape[-1], generator=generator)
            found[name] = Sequences(0.5 * features + 2 * means[label], mask)
        return found, label
