"""An encoder being tuned with a class head on top, as the trainer sees it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mer_zoo.contract import Output
from mer_zoo.errors import ZooError
from mer_zoo.training import loss_of

if TYPE_CHECKING:
    from mer_plugins.tunable import Tunable

HEAD = "head."
_C = 0.01  # of the first logistic regression, as scikit-learn counts: a strong penalty, for few clips


class Head(nn.Module):
    """Rows of a clip -> logits: pooling over the rows there are, standardisation, dropout, one linear layer.

    *Reconstructed*: the papers only say that encoders are fine-tuned on the classes. Beginning as a
    classifier of the frozen encoder (`begin`) is the remedy of Kumar et al. 2022 (arXiv 2202.10054) against a
    random head that spoils the encoder's features before it has learned anything.

    Args:
        width: D of a row.
        classes: C.
        pool: `mean`, or `attention`: weights over rows by a learned score, which begin equal.
        dropout: Before the linear layer.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, width: int, classes: int, pool: str, dropout: float) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1) if pool == "attention" else None
        if self.score is not None:
            for one in self.score.parameters():
                nn.init.zeros_(one)
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("scale", torch.ones(width))
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, classes)

    def forward(self, rows: Sequence[Tensor]) -> Tensor:
        """Return logits float32 `[B, C]` from B clips' rows, `[T_i, D]` each; no rows count as zeros."""
        return self.classify(torch.stack([self._pooled(one.float()) for one in rows]))

    def classify(self, pooled: Tensor) -> Tensor:
        """Return logits float32 `[B, C]` from pooled rows `[B, D]`."""
        logits: Tensor = self.out(self.dropout((pooled - self.mean) / self.scale))
        return logits

    def _pooled(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return rows.new_zeros(rows.shape[1])
        if self.score is None:
            return rows.mean(0)
        pooled: Tensor = (self.score(rows).softmax(0) * rows).sum(0)
        return pooled

    @torch.enable_grad()
    def begin(self, pooled: Tensor, target: Tensor, weight: Tensor) -> None:
        """Standardise by some clips' pooled rows and begin as the logistic regression that fits them.

        Args:
            pooled: float32 `[n, D]`, of the frozen encoder.
            target: float32 `[n, C]`.
            weight: float32 `[n]`.
        """
        self.mean.copy_(pooled.mean(0))
        spread = pooled.std(0, correction=0)
        self.scale.copy_(torch.where(spread > 1e-6, spread, 1.0))
        x = (pooled - self.mean) / self.scale
        for one in self.out.parameters():
            nn.init.zeros_(one)
        decay = 1 / (_C * len(x))
        fitting = torch.optim.LBFGS(self.out.parameters(), max_iter=200, line_search_fn="strong_wolfe")

        def closure() -> Tensor:
            fitting.zero_grad()
            loss = loss_of(Output(self.out(x)), target, weight)
            loss = loss + decay / 2 * self.out.weight.square().sum()
            loss.backward()  # type: ignore[no-untyped-call]  # torch gives it no types
            return loss

        fitting.step(closure)  # type: ignore[no-untyped-call]  # as above
        fitting.zero_grad()


class Loaded(NamedTuple):
    """What loading a state found amiss: nothing, since anything amiss is an error."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Tuned(nn.Module):
    """An encoder with its adapter and a head; its state dict is the adapter and the head, never the base.

    Args:
        tunable: The encoder.
        head: Moved to the encoder's device.
    """

    def __init__(self, tunable: "Tunable", head: Head) -> None:
        super().__init__()
        # Quantised and spread-out bases keep weights in odd places; what is trained is where rows end up.
        place = next(iter(tunable.trainable().values())).device
        self.tunable, self.net, self.head = tunable, tunable.net, head.to(place)
        spread = getattr(tunable.extractor.net, "hf_device_map", None)
        if spread is not None:  # then neither Trainer nor accelerate moves it to one device
            self.hf_device_map = spread

    def forward(self, inputs: Sequence[Any]) -> Tensor:
        """Return logits float32 `[B, C]` of B prepared clips."""
        place = self.head.out.weight.device
        logits: Tensor = self.head([rows.to(place) for rows in self.tunable.rows(inputs)])
        return logits

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]  # two of its forms
        """Return copies of the adapter's tensors under their names, and the head's under `head.…`."""
        head = {HEAD + name: tensor for name, tensor in self.head.state_dict().items()}
        return {
            name: tensor.detach().clone().contiguous()
            for name, tensor in (self.tunable.state() | head).items()
        }

    def load_state_dict(self, state_dict: Mapping[str, Any], *_: Any, **__: Any) -> Any:
        """Undo `state_dict`.

        Raises:
            ZooError: The state is of another adapter or head.
        """
        head = {name.removeprefix(HEAD): t for name, t in state_dict.items() if name.startswith(HEAD)}
        adapter = {name: t for name, t in state_dict.items() if not name.startswith(HEAD)}
        if set(adapter) != set(self.tunable.state()):
            raise ZooError("these weights are of another adapter", "begin anew: --restart")
        self.head.load_state_dict(head)
        self.tunable.load(adapter)
        return Loaded([], [])

    def groups(self, lr: float, head_lr: float) -> list[dict[str, Any]]:
        """Return what is trained at which learning rate, for an optimiser."""
        return [
            {"params": list(self.tunable.trainable().values()), "lr": lr},
            {"params": list(self.head.parameters()), "lr": head_lr},
        ]


def kept_random() -> AbstractContextManager[None]:
    """Leave torch's random generators as they were, whatever is drawn inside."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    return torch.random.fork_rng(gpus)
