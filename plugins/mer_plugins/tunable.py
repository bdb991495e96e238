"""Encoders made trainable: what is trained is what is extracted, by construction.

`Tunable.attach` loads an extractor's base and puts something to train into it: LoRA or DoRA (peft's),
bottleneck adapters, the last blocks whole, or everything. Inputs are those of `prepare`, and rows come out of
the extractor's own `rows`, the way of every extraction, so an adapter saved here and given to `mer-fs extract
--adapter` makes the features that were trained.

The base stays in evaluation mode for good: neither its dropout nor LayerDrop, masking of spectra
(SpecAugment) or stochastic depth is ever on. Each of them would make a clip's rows depend on chance and, with
LayerDrop, on its whole batch, and they were set for pre-training on other data. Only the adapter's own
dropout is active, in `train()` mode.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mer_featurestore.errors import UnknownName
from mer_plugins.blocks import encoder_blocks
from mer_plugins.errors import PluginError
from mer_plugins.quantized import QUANTIZATIONS, bits_and_bytes

if TYPE_CHECKING:
    import numpy as np

    from mer_plugins.transformer import TransformerExtractor
    from mer_plugins.tuners import Tuner

METHODS = {
    "lora": "LoRA: low-rank changes beside linear maps (Hu et al. 2021, arXiv 2106.09685)",
    "dora": "DoRA: the same, length and direction apart (Liu et al. 2024, arXiv 2402.09353)",
    "bottleneck": "a small residual module behind each block (Houlsby et al. 2019, Pfeiffer et al. 2021)",
    "last": "the chosen blocks' own weights",
    "full": "all of the encoder's own weights",
}


@dataclass(frozen=True, kw_only=True)
class Method:
    """What is trained in an encoder.

    Attributes:
        name: One of `METHODS`.
        layers: Whose blocks, as `--layers` of an extraction counts: layer k is what block k gives. None takes
            every block that the rows depend on; `full` trains what lies before the first block as well and
            takes None only.
        rank: Of LoRA and DoRA.
        alpha: Their scale is alpha / rank; None takes 2 * rank.
        dropout: Of the adapter's inputs (LoRA, DoRA) or activations (bottleneck).
        targets: Endings of the names of the linear maps LoRA and DoRA change; none takes those of attention
            (query, key, value, output).
        bottleneck: Width of a bottleneck.

    Raises:
        UnknownName: No such method.
        PluginError: A number that makes no sense.
    """

    name: str = "lora"
    layers: tuple[int, ...] | None = None
    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.05
    targets: tuple[str, ...] = ()
    bottleneck: int = 64

    low_rank: ClassVar[tuple[str, ...]] = ("lora", "dora")

    def __post_init__(self) -> None:
        if self.name not in METHODS:
            raise UnknownName("method", self.name, METHODS)
        for what, value in (("rank", self.rank), ("bottleneck", self.bottleneck)):
            if value < 1:
                raise PluginError(f"a {what} of {value}", "say 1 or more")
        if self.alpha is not None and not self.alpha > 0:
            raise PluginError(f"an alpha of {self.alpha:g}", "say more than 0")
        if not 0 <= self.dropout < 1:
            raise PluginError(f"a dropout of {self.dropout:g}", "say 0 or more, and less than 1")
        if self.layers is not None and (not self.layers or self.name == "full"):
            raise PluginError(
                "full tuning takes no layers" if self.layers else "no layers to train", "leave them out"
            )
        if self.targets and self.name not in self.low_rank:
            raise PluginError(f"{self.name} takes no targets", f"they are for: {', '.join(self.low_rank)}")

    @property
    def scale(self) -> float:
        """Alpha, settled."""
        return 2.0 * self.rank if self.alpha is None else self.alpha

    def blocks(self, extractor: "TransformerExtractor[Any]") -> tuple[int, ...]:
        """Return the numbers of the blocks, from 0.

        Raises:
            PluginError: There is no such block, or no row depends on it.
        """
        deepest = extractor.deepest
        layers = range(1, deepest + 1) if self.layers is None else sorted(set(self.layers))
        name = extractor.source.model
        if not layers:
            raise PluginError(f"rows of {name} are made of layer 0, behind no block", "extract later layers")
        if layers[0] < 1 or layers[-1] > extractor.blocks:
            raise PluginError(
                f"no block of {name} gives layer {layers[0] if layers[0] < 1 else layers[-1]}",
                f"its {extractor.blocks} blocks give layers 1 to {extractor.blocks}",
            )
        if layers[-1] > deepest:
            raise PluginError(
                f"layer {layers[-1]} cannot be trained: rows are made of layers up to {deepest} here",
                f"train layers 1 to {deepest}, or extract deeper ones",
            )
        return tuple(k - 1 for k in layers)


class Tunable:
    """An extractor's encoder with something to train in it.

    Attributes:
        extractor: The extractor, loaded; what it encodes is as trained so far.
        method: What is trained.
        net: The encoder. Its `train()` turns on the adapter's dropout and nothing else; only what is trained
            requires gradients.
        width: D of a row.
        max_cost: How much `cost` of one clip `trimmed` leaves, in the extractor's units (seconds, frames,
            tokens …).
    """

    def __init__(
        self,
        extractor: "TransformerExtractor[Any]",
        method: Method,
        tuner: "Tuner",
        rerun: Sequence[nn.Module] = (),
    ) -> None:
        self.extractor, self.method, self._tuner = extractor, method, tuner
        self.net: nn.Module = Still(extractor.net, tuner, rerun)
        self.width = extractor.row_shape[0]
        self.max_cost = extractor.tuning_cost

    @classmethod
    def attach(
        cls,
        extractor: "TransformerExtractor[Any]",
        method: Method,
        *,
        seed: int,
        quantize: str = "",
        gradient_checkpointing: bool = False,
    ) -> "Tunable":
        """Load an extractor's base and put in what is to be trained.

        Args:
            extractor: Not loaded, and without an adapter.
            method: What to train.
            seed: Of the first weights.
            quantize: `4bit` or `8bit` hold the base in that many bits (bitsandbytes, on a GPU) while it is
                trained; extraction merges into the base's own weights.
            gradient_checkpointing: Compute each block's inside again when its gradients are due, rather than
                keep it.

        Raises:
            PluginError: Rows with a layer axis; an adapter already; no such block or target; bitsandbytes is
                not there; an architecture that cannot do what is asked.
        """
        from mer_plugins.tuners import make_tuner

        _check(extractor, method, quantize)
        blocks = method.blocks(extractor)
        if quantize:
            extractor.quantization = bits_and_bytes(quantize, extractor.dtype)
        with _seeded(seed):
            extractor.load()
            extractor.make_tunable()
            tuner = make_tuner(extractor, method, blocks)
        return cls(extractor, method, tuner, _rerun(extractor.net) if gradient_checkpointing else ())

    def rows(self, batch: Sequence[Any]) -> list[Tensor]:
        """Return `[T_i, D]` float32 per prepared input on the encoder's device, with gradients where enabled.

        In `net.train()` mode the adapter's dropout is on, and nothing else: the base's own dropout, LayerDrop
        and masking stay off, so that a clip's rows do not depend on its batch.
        """
        return [rows.to(self.extractor.place) for rows in self.extractor.rows(batch)]

    def trimmed(self, prepared: Any, generator: "np.random.Generator") -> Any:
        """Return at most `max_cost` of a prepared input: frames sampled, seconds cropped, tokens cut."""
        return self.extractor.trim(prepared, self.max_cost, generator)

    def trainable(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name within the encoder."""
        return self._tuner.parameters()

    @property
    def counts(self) -> tuple[int, int]:
        """How many parameters are trained, and how many there are."""
        return (
            sum(map(_numbers, self.trainable().values())),
            sum(map(_numbers, self.extractor.net.parameters())),
        )

    def state(self) -> dict[str, Tensor]:
        """Return the tensors of what is trained, detached, as they are saved."""
        return {name: tensor.detach() for name, tensor in self._tuner.state().items()}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Take over tensors as `state` names them.

        Raises:
            PluginError: Some are missing, left over or of another shape.
        """
        own = self.state()
        wrong = {name for name in own.keys() & state.keys() if own[name].shape != state[name].shape}
        if wrong := (own.keys() ^ state.keys()) | wrong:
            raise PluginError(
                f"these weights are not of this {self.method.name}: {', '.join(sorted(wrong)[:3])} "
                f"({len(wrong)} in all) are missing, left over or of another shape",
                "attach with the method and layers they were trained with",
            )
        self._tuner.load(dict(state))

    def save(self, folder: Path) -> None:
        """Write `adapter_config.json` and `adapter_model.safetensors`, as `mer-fs adapters add` reads them.

        A base from the hub is named by its id and revision, one from a folder by the folder's path.
        """
        from mer_plugins.tuners import write

        write(folder, self._tuner, self.state(), self.extractor.source)


class Still(nn.Module):
    """An encoder of which only the adapter is ever in training mode.

    Args:
        encoder: The encoder, in evaluation mode.
        tuner: What is trained in it.
        rerun: Blocks that transformers runs again on the way back, if their own training flag is set.
    """

    def __init__(self, encoder: nn.Module, tuner: "Tuner", rerun: Sequence[nn.Module] = ()) -> None:
        super().__init__()
        self.encoder = encoder
        self._tuner, self._rerun = (tuner,), tuple(rerun)  # tuples, lest torch takes them for children
        self.train(mode=False)

    def train(self, mode: bool = True) -> "Still":
        """Turn the adapter's dropout on or off; everything else stays as for extraction."""
        super().train(mode=False)
        self.training = mode
        for module in (*self._tuner[0].active(), *self._rerun):
            module.training = mode
        return self

    def forward(self, *args: Any, **inputs: Any) -> Any:
        """Run the encoder."""
        return self.encoder(*args, **inputs)


def _check(extractor: "TransformerExtractor[Any]", method: Method, quantize: str) -> None:
    from mer_plugins.transformer import TransformerExtractor

    if not isinstance(extractor, TransformerExtractor):
        raise PluginError(
            f"{type(extractor).__name__} has no transformer to tune",
            "take one of the encoders of docs/encoders.md",
        )
    if extractor.adapter is not None:
        raise PluginError(
            f"{extractor.source.model} has adapter {extractor.adapter.name} in it",
            "tune the base: no --adapter",
        )
    if len(extractor.row_shape) != 1:
        raise PluginError(
            "rows with a layer axis cannot be tuned", "choose layers that are summed, not `all`"
        )
    whole = method.name in ("last", "full")
    if quantize and quantize not in QUANTIZATIONS:
        raise UnknownName("quantisation", quantize, QUANTIZATIONS)
    if quantize and whole:
        raise PluginError(
            f"{method.name} trains the weights themselves, not {quantize} ones", "say --method lora"
        )
    if whole and extractor.dtype != "float32":
        raise PluginError(
            f"weights in {extractor.dtype} would lose most updates to rounding",
            "say --option precision=float32; mixed precision is the trainer's",
        )


def _rerun(net: Any) -> list[nn.Module]:
    """Turn on transformers' gradient checkpointing, and return the blocks that wait for their training flag.

    Only blocks are run again. What else could be (the convolutions of speech encoders) is told the lengths of
    a batch's clips beforehand, which are others by then. What a block's own flag turns on besides is turned
    off for good.
    """
    from transformers.modeling_layers import GradientCheckpointingLayer

    blocks = list(encoder_blocks(net)[1])
    if not all(isinstance(block, GradientCheckpointingLayer) for block in blocks):
        raise PluginError(f"{type(net).__name__} cannot checkpoint gradients", "leave it out")
    # transformers is renaming it
    enable = getattr(net, "activation_checkpointing_enable", None) or net.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for block in blocks:
        for name, value in vars(block).items():
            if "drop" in name and isinstance(value, float):
                setattr(block, name, 0.0)
    return blocks


def _numbers(weight: Tensor) -> int:
    """Return how many numbers a parameter holds; bitsandbytes packs two of them into a byte."""
    packed = getattr(weight, "quant_state", None)
    return int(packed.shape.numel()) if packed is not None else weight.numel()


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Draw from a seed inside, and leave torch's own generators as they were."""
    gpus = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    with torch.random.fork_rng(gpus):
        torch.manual_seed(seed)
        yield
