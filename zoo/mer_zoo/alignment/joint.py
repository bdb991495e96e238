"""Training a visual encoder's adapter and the head behind it together, from media."""

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mer_plugins.tunable import Tunable
from mer_zoo.alignment.fitting import FittedHead
from mer_zoo.alignment.head import Head, length_of
from mer_zoo.alignment.losses import PairLoss
from mer_zoo.alignment.retrieval import ahead
from mer_zoo.alignment.rows import Standard, View, standardised
from mer_zoo.alignment.settings import AlignSettings, EncoderSettings
from mer_zoo.training import Diverged
from mer_zoo.tuning.batches import epoch_order, in_order
from mer_zoo.tuning.media import Media

STATE = "checkpoint-joint.pt"  # `Work` takes checkpoint-* for work that was begun
Told = Callable[[str, int, int], None]
Tensors = dict[str, Tensor]


@dataclass(frozen=True, slots=True)
class Scene:
    """What is trained on.

    Attributes:
        tunable: The encoder with its adapter.
        media: The clips as the encoder takes them, numbered as `acoustic`.
        acoustic: Their standardised acoustic rows.
        standard: Mean and scale of the visual rows that the head reads; they stay as the base gave them.
        train: int64 `[n]`, numbers of the clips that train.
        valid: int64 `[m]`, of those that decide when to stop.
        content: int64, by number, equal for copies.
    """

    tunable: Tunable
    media: Media
    acoustic: View
    standard: Standard
    train: Tensor
    valid: Tensor
    content: Tensor


@dataclass(slots=True)
class State:
    """How far it is; what a checkpoint holds, besides weights and optimiser.

    Attributes:
        epoch: Epochs done.
        best: The best of them; 0 is the head alone.
        score: `ahead` of the validation clips then.
        adapter: The adapter's tensors then.
        head: The head's then.
        history: Per epoch `loss`, `ahead` and, for InfoNCE, `temperature`.
    """

    epoch: int
    best: int
    score: float
    adapter: Tensors
    head: Tensors
    history: list[dict[str, float]] = field(default_factory=list)


def pooled(rows: Tensor, how: str) -> Tensor:
    """Pool `[T, D]`, T > 0, over time as `mer_plugins.pooling.pool_rows` does, with gradients."""
    if how == "max":
        return rows.amax(0)
    if how == "mean":
        return rows.mean(0)
    spread = rows.std(0) if len(rows) > 1 else torch.zeros_like(rows[0])
    return torch.cat([rows.mean(0), spread])


def encode(tunable: Tunable, media: Media, places: Tensor, size: int, told: Told | None = None) -> Tensor:
    """Return the pooled rows float32 `[n, D]` of clips by number, as extraction gives them, on the CPU."""
    tunable.net.eval()
    order = places.numpy()
    made: dict[int, Tensor] = {}
    with torch.inference_mode():
        for batch, inputs in in_order(media, order, size):
            for place, rows in zip(batch, tunable.rows(inputs), strict=True):
                made[place] = pooled(rows.float(), tunable.extractor.pooling).cpu()
            if told is not None:
                told("encoding", len(made), len(order))
    return torch.stack([made[place] for place in order.tolist()]).clone()


class Joint:
    """One training of an adapter and a head.

    Args:
        scene: What is trained on.
        first: The head as it was trained on the base's features; it is not changed.
        settings: Of the loss and the seed.
        how: Of the encoder.
        folder: Where a checkpoint is after each epoch.
    """

    def __init__(
        self, scene: Scene, first: FittedHead, settings: AlignSettings, how: EncoderSettings, folder: Path
    ) -> None:
        self.scene, self.settings, self.how, self.file = scene, settings, how, folder / STATE
        tunable = scene.tunable
        self.place = next(iter(tunable.trainable().values())).device
        self.head = _copy(first.head, settings.dropout).to(self.place)
        warm = first.history[first.best - 1].get("temperature") if first.best else None
        self.loss = PairLoss(settings.loss, warm or settings.temperature).to(self.place)
        groups: list[dict[str, Any]] = [
            {"params": list(tunable.trainable().values()), "lr": how.lr, "weight_decay": how.weight_decay},
            {"params": list(self.head.parameters()), "lr": how.head_lr, "weight_decay": how.weight_decay},
            {"params": list(self.loss.parameters()), "lr": how.head_lr, "weight_decay": 0.0},
        ]
        self.optimizer = torch.optim.AdamW(groups)

    def run(self, told: Told) -> State:
        """Train until the validation clips' order gets no better; go on from a checkpoint where there is one.

        Afterwards encoder and head are as they were in the best epoch.

        Raises:
            Diverged: The loss became infinite or NaN.
        """
        state = self._resumed() or State(0, 0, self._watch(), self._adapter(), _tensors(self.head))
        devices = [self.place] if self.place.type == "cuda" else []
        with torch.random.fork_rng(devices=devices):
            while state.epoch < self.how.epochs and state.epoch - state.best < self.how.patience:
                self._epoch(state)
                self._save(state)
                told("aligning", state.epoch, self.how.epochs)
        self.scene.tunable.load(state.adapter)
        self.head.load_state_dict(state.head)
        return state

    def fitted(self, state: State, rows: Tensor) -> FittedHead:
        """Return the head as it is now.

        Args:
            state: What `run` returned.
            rows: float32 `[N, D]`, pooled rows of all clips by number, as the encoder gives them now.
        """
        scene, head = self.scene, _copy(self.head, 0.0).cpu().eval()
        length = 1.0
        if self.settings.loss != "mse":
            with torch.inference_mode():
                given = head(standardised(rows[scene.train], scene.standard))
            length = length_of(given, scene.acoustic.take(scene.train))
        return FittedHead(head, length, state.best, tuple(state.history))

    def _epoch(self, state: State) -> None:
        scene = self.scene
        torch.manual_seed(self.settings.seed * 1_000_003 + state.epoch)  # of dropout, also when resumed
        scene.tunable.net.train()
        self.head.train()
        total, count = 0.0, 0
        for places, inputs in self._batches(state.epoch):
            if len(places) < 2:  # a lone clip has nothing to be told from
                continue
            total += self._step(places, inputs) * len(places)
            count += len(places)
        mean = total / count
        if not math.isfinite(mean):
            raise Diverged(f"the loss became {mean} in epoch {state.epoch + 1}", "lower --encoder-lr")
        now = self._watch()
        warmth = {"temperature": self.loss.temperature} if self.settings.loss == "infonce" else {}
        state.history.append({"loss": mean, "ahead": now, **warmth})
        state.epoch += 1
        if now > state.score:
            state.best, state.score = state.epoch, now
            state.adapter, state.head = self._adapter(), _tensors(self.head)

    def _step(self, places: list[int], inputs: list[Any]) -> float:
        scene, index = self.scene, torch.tensor(places)
        rows = scene.tunable.rows(inputs)
        given = torch.stack(
            [pooled(one.float().to(self.place), scene.tunable.extractor.pooling) for one in rows]
        )
        given = self.head(standardised(given, scene.standard))
        wanted = scene.acoustic.take(index).to(self.place)
        value = self.loss(given, wanted, scene.content[index].to(self.place))
        self.optimizer.zero_grad()
        value.backward()
        self.optimizer.step()
        return float(value.detach())

    def _batches(self, epoch: int) -> Iterator[tuple[list[int], list[Any]]]:
        scene, seed = self.scene, self.settings.seed
        order = epoch_order(scene.train.numpy(), scene.media.cost, self.how.batch_size, seed, epoch)
        stream = scene.media.stream([i for batch in order for i in batch])
        for batch in order:
            draws = (np.random.default_rng((seed, epoch, i)) for i in batch)
            yield batch, [scene.tunable.trimmed(next(stream), draw) for draw in draws]

    def _watch(self) -> float:
        scene = self.scene
        rows = encode(scene.tunable, scene.media, scene.valid, self.how.batch_size)
        self.head.eval()
        with torch.inference_mode():
            given = self.head(standardised(rows.to(self.place), scene.standard)).cpu()
        if not bool(given.isfinite().all()):
            raise Diverged("the head's output is no longer finite", "lower --encoder-lr")
        return ahead(given.numpy(), scene.acoustic.take(scene.valid).numpy())

    def _adapter(self) -> Tensors:
        return {name: tensor.clone() for name, tensor in self.scene.tunable.state().items()}

    def _save(self, state: State) -> None:
        document = {
            **{name: getattr(state, name) for name in State.__slots__},
            "now": {
                "adapter": self._adapter(),
                "head": _tensors(self.head),
                "loss": _tensors(self.loss),
                "optimizer": self.optimizer.state_dict(),
            },
        }
        partial = self.file.with_suffix(".partial")
        torch.save(document, partial)
        partial.replace(self.file)

    def _resumed(self) -> State | None:
        if not self.file.exists():
            return None
        document: dict[str, Any] = torch.load(self.file, map_location=self.place, weights_only=True)
        now: Mapping[str, Any] = document.pop("now")
        self.scene.tunable.load(now["adapter"])
        self.head.load_state_dict(now["head"])
        self.loss.load_state_dict(now["loss"])
        self.optimizer.load_state_dict(now["optimizer"])
        return State(**document)


def _tensors(module: torch.nn.Module) -> Tensors:
    return {name: tensor.detach().clone() for name, tensor in module.state_dict().items()}


def _copy(head: Head, dropout: float) -> Head:
    hidden = head.first.out_features if head.second is not None else 0
    out = (head.second or head.first).out_features
    twin = Head(head.first.in_features, out, hidden=hidden, dropout=dropout)
    twin.load_state_dict(head.state_dict())
    return twin
