"""What extractors that run a Hugging Face encoder have in common: a checkpoint, layers, a forward pass."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from mer_featurestore.errors import suggest
from mer_plugins.checkpoints import DTYPES, Checkpoint, Source, load_hf_model, locate
from mer_plugins.contract import Extractor, ExtractorCard, Options
from mer_plugins.errors import PluginError
from mer_plugins.layers import Layers, parse_layers
from mer_plugins.pooling import POOL_OPTION, POOLINGS
from mer_plugins.settings import Settings

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from mer_plugins.switching import Switch

Input = TypeVar("Input")
OPTIONS = {
    **POOL_OPTION,
    "precision": ("auto", "float32, bfloat16 or float16 to compute in; auto: float32"),
}


class TransformerExtractor(Extractor[Input]):
    """Rows are hidden layers of a checkpoint, the last four summed unless `--layers` says otherwise.

    Children read inputs (`prepare`), pass batches through `states` and cut rows out of what comes back
    (`rows`). There is one way from inputs to rows: `encode` goes it without gradients, and whoever trains the
    encoder goes it with them, so that what is trained is what is extracted.

    Attributes:
        kinds: Model types (of `config.json`) the family can read.
        parts: For some kinds, the sub-configuration that describes the encoder, e.g. `vision_config`.
        options_table: The family's options.
        default_layers: Taken when `--layers` is not given.
        spare: Regular expressions of tensors no feature depends on.
        fixed: Regular expressions of tensors that are never trained.
        device_map: `auto` spreads the weights over devices.
        quantization: transformers' configuration of a quantised base; None loads it as it is.
        sizes: What `config.json` calls the width and the number of blocks.
        adapter_prefixes: What the encoder is called in models that adapters are trained on, where that is
            neither nothing nor transformers' own prefix.
        tuning_cost: How much `cost` of one clip is run at most while the encoder is trained.
    """

    kinds: ClassVar[tuple[str, ...]] = ()
    parts: ClassVar[Mapping[str, str]] = {}
    options_table: ClassVar[Mapping[str, tuple[str, str]]] = OPTIONS
    default_layers: ClassVar[str] = "last4"
    spare: tuple[str, ...] = ()
    fixed: tuple[str, ...] = ()
    device_map: str = ""
    quantization: Any = None
    sizes: ClassVar[tuple[str, str]] = ("hidden_size", "num_hidden_layers")
    adapter_prefixes: ClassVar[tuple[str, ...]] = ()
    tuning_cost: ClassVar[float]

    def __init__(self, options: Options, checkpoint: Checkpoint | None = None) -> None:
        self.say = Settings(self.options_table, options)
        self.source = self._locate(options, checkpoint)
        self.kind = str(self.source.config.get("model_type", ""))
        self._check_kind()
        self.adapter = options.adapter
        if self.adapter is not None:
            self.adapter.check_base(self.source)
            self.parents = (self.adapter.ref,) if self.adapter.ref else ()
        self.part = self.parts.get(self.kind, "")
        self.width, self.blocks = (self.source.number(name, self.part) for name in self.sizes)
        self.layers: Layers = parse_layers(options.layers or self.default_layers, self.blocks)
        self.row_shape = self.layers.row_shape(self.width)
        self.pooling = self.say.choice("pool", POOLINGS)
        self.device = options.device
        precision = self.say.choice("precision", ("auto", *DTYPES))
        self.dtype = options.dtype if precision == "auto" else precision
        self.net: Any = None
        self.switch: Switch | None = None  # of an adapter with folds, once loaded

    @staticmethod
    def _locate(options: Options, checkpoint: Checkpoint | None) -> Source:
        if options.model:
            return locate(options.model, options.revision, trusted=options.trust_remote_code)
        if checkpoint is None:
            raise PluginError("no checkpoint is named", "give a folder or hub id: --model PATH_OR_ID")
        return locate(checkpoint.model, options.revision or checkpoint.revision)

    def _check_kind(self) -> None:
        if self.kinds and self.kind not in self.kinds:
            raise PluginError(
                f"{self.source.model} is a {self.kind or 'nameless'} model, which this extractor cannot run",
                suggest(self.kind, self.kinds),
            )

    def made_by(self) -> Mapping[str, Any]:
        """Return checkpoint, adapter, layers, compute dtype, and how inputs are read."""
        return {
            "checkpoint": self.source.made_by(),
            **({"adapter": self.adapter.made_by} if self.adapter else {}),
            **self.layers.made_by(),
            "dtype": self.dtype,
            **self.reading(),
        }

    def reading(self) -> Mapping[str, Any]:
        """Return how inputs are read, for the fingerprint."""
        return {}

    def architecture(self) -> Any:
        """Return the transformers class to load; imported here, since it is heavy."""
        from transformers import AutoModel

        return AutoModel

    def load(self) -> None:
        """Load the weights, every tensor of them, and the adapter into them."""
        self.net = self.load_net(self.architecture(), spare=self.spare, device_map=self.device_map)

    def load_net(self, architecture: Any, **how: Any) -> Any:
        """Return the checkpoint as a class of transformers, with the adapter merged in.

        Args:
            architecture: The class.
            **how: Further arguments of `load_hf_model`.
        """
        how |= {"quantization": self.quantization}
        net = load_hf_model(architecture, self.source, device=self.device, dtype=self.dtype, **how)
        if self.adapter is None or not self.adapter.config:
            return net
        if self.adapter.folds:
            from mer_plugins.switching import attach

            self.switch = attach(net, self.adapter, self.adapter_prefixes)
            return net
        from mer_plugins.merging import merge

        return merge(net, self.adapter, self.adapter_prefixes)

    @property
    def deepest(self) -> int:
        """The last layer that rows depend on."""
        return self.layers.deepest

    def make_tunable(self) -> None:
        """Make the loaded encoder fit to be trained, where it is not; rows stay the same to rounding."""

    def close(self) -> None:
        """Let go of the weights."""
        self.net = self.switch = None

    @property
    def place(self) -> "torch.device":
        """The device inputs go to, once loaded."""
        return home(self.net)

    @property
    def together(self) -> bool:
        """Whether inputs share a forward pass: not when features are extracted on a CPU.

        There one input keeps all cores busy, and alone its numbers are the same to the last bit whatever
        else is extracted with it, so that a resumed run gives the very features of an uninterrupted one.
        Training does not need the last bit.
        """
        import torch

        return self.place.type != "cpu" or torch.is_grad_enabled()

    @abstractmethod
    def rows(self, batch: Sequence[Input]) -> "list[torch.Tensor]":
        """Return `[T_i, *row_shape]` float32 per input, differentiable where gradients are enabled.

        On the encoder's device, but under `torch.inference_mode` on the CPU: see `settled`.
        """

    def encode(self, batch: Sequence[Input]) -> "list[NDArray[np.float32]]":
        """Return `[T_i, *row_shape]` float32 per input, the same whatever else is in the batch."""
        import torch

        with torch.inference_mode():
            return [rows.numpy() for rows in self.rows(batch)]

    @abstractmethod
    def trim(self, prepared: Input, most: float, chance: "np.random.Generator") -> Input:
        """Return a part of an input that costs `most` at most, for training; the input itself if it does.

        Args:
            prepared: As `prepare` gives it.
            most: In units of `cost`.
            chance: Which part.
        """

    def states(self, **inputs: Any) -> "torch.Tensor":
        """Run the encoder and return the chosen layers: float32 `[B, T, *row_shape]`, `settled`.

        Args:
            **inputs: For the encoder; floating-point tensors are cast to the compute dtype.
        """
        out = self.net(**self._ready(inputs), output_hidden_states=True)
        if len(out.hidden_states) != self.blocks + 1:
            raise PluginError(
                f"{self.source.model}: {self.blocks} blocks, {len(out.hidden_states)} hidden layers",
                "an encoder of this shape needs an extractor of its own",
            )
        place = out.hidden_states[-1].device  # a model that is spread out leaves them on several devices
        chosen = {k: out.hidden_states[k].float().to(place) for k in self.layers.indices}
        return settled(self.layers.combine(chosen))

    def output(self, name: str, **inputs: Any) -> "torch.Tensor":
        """Run the encoder and return one of its outputs by name, float32, `settled`."""
        return settled(self.net(**self._ready(inputs))[name].float())

    def _ready(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        import torch

        ready = {}
        for name, value in inputs.items():
            if isinstance(value, torch.Tensor):
                dtype = getattr(torch, self.dtype) if value.is_floating_point() else value.dtype
                value = value.to(self.place, dtype)
            if value is not None:
                ready[name] = value
        return ready


def settled(rows: "torch.Tensor") -> "torch.Tensor":
    """Return rows on the CPU under `torch.inference_mode`, else as they are.

    Extraction moves what one forward pass gives off the GPU at once, which a long clip's rows would fill.
    """
    import torch

    return rows.cpu() if torch.is_inference_mode_enabled() else rows


def home(net: Any) -> "torch.device":
    """Return the device inputs of a loaded model go to."""
    import torch

    place: torch.device = next(net.parameters()).device
    return torch.device("cpu") if place.type == "meta" else place  # accelerate keeps weights elsewhere


def cards(
    build: type[TransformerExtractor[Any]], table: Sequence[Checkpoint], **facts: Any
) -> tuple[ExtractorCard, ...]:
    """Return a card per row of a family's table.

    Args:
        build: The family's extractor.
        table: Its named checkpoints.
        **facts: Further fields of `ExtractorCard`: modality, levels, requires, install.
    """
    return tuple(
        ExtractorCard(
            name=row.name,
            summary=f"{row.model}, {row.width} wide; licence: {row.licence}",
            build=_Built(build, row),
            options=build.options_table,
            model=row.model,
            layers=build.default_layers,
            takes_adapter=True,
            **facts,
        )
        for row in table
    )


def adapted_cards(
    build: type[TransformerExtractor[Any]], table: Sequence[Checkpoint], *names: str, **facts: Any
) -> tuple[ExtractorCard, ...]:
    """Return cards `NAME-lora` for some rows of a table: the checkpoint with the store's adapter so named."""
    rows = {row.name: row for row in table}
    return tuple(
        replace(
            card,
            name=f"{name}-lora",
            adapter=f"{name}-lora",
            summary=f"{card.model} with the store's adapter {name}-lora",
        )
        for name in names
        for card in cards(build, [rows[name]], **facts)
    )


class _Built:
    """Makes a family's extractor for one row of its table."""

    def __init__(self, build: type[TransformerExtractor[Any]], row: Checkpoint) -> None:
        self.build, self.row = build, row

    def __call__(self, options: Options) -> TransformerExtractor[Any]:
        return self.build(options, self.row)

    def __repr__(self) -> str:
        return f"{self.build.__name__}({asdict(self.row)})"
