"""An encoder being tuned with a class head on top, as the trainer sees it."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from mer_plugins.tunable import Tunable

HEAD = "head."


class Head(nn.Module):
    """Rows of a clip -> logits: pooling over the rows there are, normalisation, dropout, one linear layer.

    *Reconstructed*: the papers only say that encoders are fine-tuned on the classes. The normalisation, which
    has no weights of its own, makes one learning rate do for encoders whose rows differ in size by orders.

    Args:
        width: D of a row.
        classes: C.
        pool: `mean`, or `attention`: weights over rows by a learned score (softmax of a linear layer).
        dropout: Before the linear layer.
    """

    def __init__(self, width: int, classes: int, pool: str, dropout: float) -> None:
        super().__init__()
        self.score = nn.Linear(width, 1) if pool == "attention" else None
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.dropout = nn.Dropout(dropout)
        self.out = nn.Linear(width, classes)

    def forward(self, rows: Sequence[Tensor]) -> Tensor:
        """Return logits float32 `[B, C]` from B clips' rows, `[T_i, D]` each; no rows count as zeros."""
        pooled = torch.stack([self._pooled(one.float()) for one in rows])
        logits: Tensor = self.out(self.dropout(self.norm(pooled)))
        return logits

    def _pooled(self, rows: Tensor) -> Tensor:
        if not len(rows):
            return rows.new_zeros(rows.shape[1])
        if self.score is None:
            return rows.mean(0)
        pooled: Tensor = (self.score(rows).softmax(0) * rows).sum(0)
        return pooled


class Loaded(NamedTuple):
    """What loading a state found amiss: nothing, since anything amiss is an error."""

    missing_keys: list[str]
    unexpected_keys: list[str]


class Tuned(nn.Module):
    """An encoder with its adapter and a head; its state dict is the adapter and the head, never the base.

    Args:
        tunable: The encoder.
        head: On the encoder's device.
    """

    def __init__(self, tunable: "Tunable", head: Head) -> None:
        super().__init__()
        self.tunable, self.net, self.head = tunable, tunable.net, head
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


def make_head(tunable: "Tunable", classes: int, *, pool: str, dropout: float, seed: int) -> Head:
    """Return a head of random weights that the seed decides, on the device rows come from."""
    with kept_random():
        torch.manual_seed(seed)
        head = Head(tunable.width, classes, pool, dropout)
    # Quantised and spread-out bases keep weights in odd places; what is trained is where rows end up.
    place = next(iter(tunable.trainable().values())).device
    return head.to(place)
