"""What decides an alignment."""

from dataclasses import asdict, dataclass
from typing import Any

from mer_zoo.errors import ZooError

LOSSES = {
    "infonce": "symmetric InfoNCE with a learnable temperature, as CLIP (Radford et al. 2021)",
    "cosine": "1 - cosine of each clip's pair",
    "mse": "mean squared error, on standardised features",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class AlignSettings:
    """How a head is trained; all of it *reconstructed*.

    Attributes:
        loss: One of `LOSSES`.
        hidden: Width of a hidden layer with a GELU behind it; 0 makes the head one affine map.
        epochs: At most.
        patience: Epochs without a better order of the validation clips.
        batch_size: Clips in a batch, each the others' negative in `infonce`.
        lr: Of AdamW.
        weight_decay: Of AdamW; the temperature has none.
        dropout: On the standardised visual features, while training.
        temperature: Where `infonce` starts; it learns 1/temperature, at most 100, as CLIP does.
        seed: Decides who is held out, the first weights, the order and the dropout.

    Raises:
        ZooError: A value that cannot be.
    """

    loss: str = "infonce"
    hidden: int = 0
    epochs: int = 100
    patience: int = 15
    batch_size: int = 256
    lr: float = 1e-3
    weight_decay: float = 1e-2
    dropout: float = 0.3
    temperature: float = 0.07
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ZooError(f"no loss named {self.loss!r}", "use one of: " + ", ".join(LOSSES))
        least = {"hidden": 0, "epochs": 1, "patience": 1, "batch_size": 2, "weight_decay": 0, "dropout": 0}
        for name, low in least.items():
            if not getattr(self, name) >= low:
                raise ZooError(f"{name} is {getattr(self, name)}", f"use {low} or more")
        if not (self.dropout < 1 and self.lr > 0 and self.temperature > 0):
            raise ZooError(
                f"dropout {self.dropout}, lr {self.lr}, temperature {self.temperature}",
                "dropout is below 1, the others above 0",
            )

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSettings:
    """How the visual encoder is adapted together with a head that was trained before; *reconstructed*.

    Attributes:
        method: As in `mer_plugins.tunable.METHODS`.
        layers: Whose blocks: `all`, `best` (of a probe), one `k` or a band `i-j`, counted as in extraction.
        rank: Of LoRA and DoRA.
        dropout: Within the adapter.
        targets: Endings of the names of the maps that get LoRA; none takes those of attention.
        bottleneck: Width of bottleneck adapters.
        epochs: At most.
        patience: Epochs without a better order of the validation clips.
        batch_size: Clips in a forward pass, each the others' negative in `infonce`.
        lr: Of the adapter.
        head_lr: Of the head and the temperature.
        weight_decay: Of both.
        gradient_checkpointing: Less memory, more computing.
        quantize: `4bit` or `8bit` hold the frozen base in so many bits; empty does not.

    Raises:
        ZooError: A value that cannot be.
    """

    method: str = "lora"
    layers: str = "all"
    rank: int = 8
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    bottleneck: int = 64
    epochs: int = 10
    patience: int = 3
    batch_size: int = 16
    lr: float = 1e-4
    head_lr: float = 1e-4
    weight_decay: float = 1e-2
    gradient_checkpointing: bool = False
    quantize: str = ""

    def __post_init__(self) -> None:
        for name, low in {"epochs": 1, "patience": 1, "batch_size": 2, "weight_decay": 0}.items():
            if not getattr(self, name) >= low:
                raise ZooError(f"{name} is {getattr(self, name)}", f"use {low} or more")
        if not (self.lr > 0 and self.head_lr > 0):
            raise ZooError(f"lr {self.lr}, head lr {self.head_lr}", "use more than 0")

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values."""
        return {**asdict(self), "targets": list(self.targets)}
