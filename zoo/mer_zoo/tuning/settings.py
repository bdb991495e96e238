"""What somebody wants tuned and how; light enough for `--help`."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mer_plugins.contract import Options
from mer_zoo.errors import ZooError

METHODS = ("lora", "dora", "bottleneck", "last", "full")
POOLS = ("mean", "attention")
METRICS = ("uar", "waf")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
CLASS_WEIGHTS = ("balanced", "none")
QUANTIZE = ("none", "4bit", "8bit")
# What the methods' authors and the tuners of speech encoders use, by and large; all of it *reconstructed*.
_RATES = {"lora": 5e-4, "dora": 5e-4, "bottleneck": 1e-3, "last": 5e-5, "full": 1e-5}
_WHOLE = ("epochs", "batch_size", "accumulate", "patience", "rank", "bottleneck")
_SHARES = ("label_smoothing", "head_dropout", "dropout", "warmup")


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneSettings:
    """How an encoder is tuned. The papers give none of these values: all are *reconstructed*.

    Attributes:
        method: `lora`, `dora`, `bottleneck`, `last` (the chosen layers themselves) or `full`.
        rank: Of LoRA and DoRA.
        alpha: Their scale; None is twice the rank.
        dropout: Within the adapter.
        targets: Endings of the names of the modules that get LoRA; none takes the family's own.
        bottleneck: Width of bottleneck adapters.
        epochs: At most.
        batch_size: Clips in a forward pass.
        accumulate: Forward passes per step of the optimiser.
        lr: Learning rate of the adapter; None takes the method's.
        head_lr: Learning rate of the head.
        weight_decay: Of AdamW.
        warmup: Share of the steps over which the learning rate rises; afterwards it falls linearly to 0.
        patience: Epochs without a higher score on the validation clips before it stops.
        metric: That score: `uar` or `waf`.
        class_weights: `balanced` lets classes count inversely to their frequency in the training part.
        label_smoothing: Share of each target spread over all classes.
        soft_labels: Whether pseudo-labels train as probabilities.
        confidence_weights: Whether a pseudo-labelled clip counts by its confidence.
        most: How much of a long clip is taken in training, in the extractor's units of cost (seconds, frames,
            tokens …); None takes the family's own. Scoring takes clips as a whole.
        pool: How the head makes one row of many: `mean` or `attention`.
        head_dropout: Before the head's linear layer.
        precision: Of the forward pass while training; `auto` is bfloat16 or float16 on a GPU, else float32.
        quantize: `4bit` or `8bit` holds the frozen base in so many bits.
        gradient_checkpointing: Compute activations twice to hold fewer.

    Raises:
        ZooError: A value out of range.
    """

    method: str = "lora"
    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    bottleneck: int = 64
    epochs: int = 15
    batch_size: int = 8
    accumulate: int = 1
    lr: float | None = None
    head_lr: float = 1e-3
    weight_decay: float = 0.01
    warmup: float = 0.1
    patience: int = 4
    metric: str = "uar"
    class_weights: str = "balanced"
    label_smoothing: float = 0.0
    soft_labels: bool = False
    confidence_weights: bool = False
    most: float | None = None
    pool: str = "mean"
    head_dropout: float = 0.1
    precision: str = "auto"
    quantize: str = "none"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        self._check_words()
        if self.most is not None and not self.most > 0:
            raise ZooError(f"{self.most:g} of a clip is nothing", "use more than 0")
        for name in _WHOLE:
            if getattr(self, name) < 1:
                raise ZooError(f"{name} is {getattr(self, name)}", "use 1 or more")
        for name in _SHARES:
            if not 0 <= getattr(self, name) < 1:
                raise ZooError(f"{name} is {getattr(self, name):g}", "use 0 or more, below 1")
        if not self.rate > 0 or not self.head_lr > 0 or not self.weight_decay >= 0:
            raise ZooError(
                f"learning rates {self.rate:g} and {self.head_lr:g} with weight decay {self.weight_decay:g} "
                "cannot be used",
                "use learning rates above 0 and a weight decay of 0 or more",
            )

    def _check_words(self) -> None:
        words = {
            "method": METHODS,
            "pool": POOLS,
            "metric": METRICS,
            "precision": PRECISIONS,
            "class_weights": CLASS_WEIGHTS,
            "quantize": QUANTIZE,
        }
        for name, known in words.items():
            if getattr(self, name) not in known:
                raise ZooError(f"{name} is {getattr(self, name)!r}", f"use one of: {', '.join(known)}")

    @property
    def rate(self) -> float:
        """Learning rate of the adapter."""
        return _RATES[self.method] if self.lr is None else self.lr

    def to_json(self) -> dict[str, Any]:
        """Return the settings as plain JSON values, the learning rate as it is used."""
        return {**asdict(self), "targets": list(self.targets), "lr": self.rate}


@dataclass(frozen=True, slots=True, kw_only=True)
class TuneRequest:
    """What to tune on what.

    Attributes:
        plugin: An extractor that takes adapters.
        name: Of the adapter to be.
        labels: Label layer; None takes `gold`, or the only one.
        layers: Which to adapt, numbered as in extraction (layer k is what block k gives): `best` of the
            newest probe, `all`, one `k` or a band `i-j`.
        probe: The probe run that `best` means; None takes the newest of the plugin.
        options: What to tell the extractor; its `layers` are those that rows are read from.
        settings: How.
        folds: 0 trains one adapter; 3 or more one per fold, none of which sees its fold's labels.
        all_data: With folds, whether one more is trained on all of them.
        split: Whose human labels may be seen.
        group_by: What folds keep together (see `mer_zoo.folds.make_folds`).
        seed: Decides weights, order, dropout, folds.
    """

    plugin: str
    name: str
    labels: str | None = None
    layers: str = "best"
    probe: str | None = None
    options: Options = field(default_factory=Options)
    settings: TuneSettings = field(default_factory=TuneSettings)
    folds: int = 0
    all_data: bool = True
    split: str = "train"
    group_by: str = "auto"
    seed: int = 0

    def to_json(self) -> Mapping[str, Any]:
        """Return what decides the result, besides the data and the base, as plain JSON values."""
        return {
            "plugin": self.plugin,
            "labels": self.labels,
            "layers": self.layers,
            "settings": self.settings.to_json(),
            "folds": self.folds,
            "all_data": self.all_data,
            "split": self.split,
            "group_by": self.group_by,
            "seed": self.seed,
        }
