"""What can be trained in an encoder: peft's LoRA and DoRA, bottlenecks, and the encoder's own weights."""

import json
import re
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from mer_featurestore.errors import suggest
from mer_plugins.blocks import encoder_blocks
from mer_plugins.checkpoints import Source
from mer_plugins.errors import PluginError

if TYPE_CHECKING:
    from mer_plugins.transformer import TransformerExtractor
    from mer_plugins.tunable import Method

_ATTENTION = re.compile(r"attn|attention")
_POSITION = re.compile(r"pos(_|$|i)")  # maps of relative positions: no query, key, value or output


class Tuner(ABC):
    """Something to train inside an encoder."""

    @abstractmethod
    def parameters(self) -> dict[str, nn.Parameter]:
        """Return what is trained, by name within the encoder."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """Return the tensors under the names they are saved by."""

    @abstractmethod
    def load(self, state: dict[str, Tensor]) -> None:
        """Take over tensors, of the names and shapes of `state`."""

    @abstractmethod
    def config(self) -> dict[str, Any]:
        """Return what `adapter_config.json` says of them."""

    def active(self) -> Iterator[nn.Module]:
        """Yield the modules whose own training flag may be set."""
        return iter(())


class LowRank(Tuner):
    """peft's LoRA, or DoRA.

    Args:
        net: The encoder, changed in place.
        method: Rank and all.
        names: Regular expression of the whole names of the modules to change.
    """

    def __init__(self, net: Any, method: "Method", names: str) -> None:
        from peft import LoraConfig, get_peft_model
        from transformers.pytorch_utils import Conv1D

        turned = any(isinstance(m, Conv1D) for n, m in net.named_modules() if re.fullmatch(names, n))
        settings = LoraConfig(
            r=method.rank,
            lora_alpha=method.scale,  # type: ignore[arg-type]  # peft says int and takes any number
            lora_dropout=method.dropout,
            target_modules=names,
            use_dora=method.name == "dora",
            fan_in_fan_out=turned,
        )
        self.net = net
        with warnings.catch_warnings():
            # peft asks transformers for something under a name that transformers is about to drop.
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
            self._peft: Any = get_peft_model(net, settings)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return the low-rank matrices (and DoRA's lengths)."""
        return {name: weight for name, weight in self.net.named_parameters() if weight.requires_grad}

    def state(self) -> dict[str, Tensor]:
        """Return them as peft names them."""
        from peft import get_peft_model_state_dict

        found: dict[str, Tensor] = get_peft_model_state_dict(self._peft, save_embedding_layers=False)
        return found

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over tensors."""
        from peft import set_peft_model_state_dict

        set_peft_model_state_dict(self._peft, state)

    def config(self) -> dict[str, Any]:
        """Return peft's own configuration, to load for inference."""
        found: dict[str, Any] = json.loads(
            json.dumps(self._peft.peft_config["default"].to_dict(), default=_plain)
        )
        return found | {"inference_mode": True}

    def active(self) -> Iterator[nn.Module]:
        """Yield the changed linear maps and what was put into them, but not the maps themselves."""
        from peft.tuners.lora import LoraLayer

        for module in self.net.modules():
            if isinstance(module, LoraLayer):
                changed: Any = module
                inner = set(changed.get_base_layer().modules())
                yield from (part for part in changed.modules() if part not in inner)


class Behind(Tuner):
    """Bottlenecks behind blocks; see `mer_plugins.bottleneck`."""

    def __init__(self, net: Any, method: "Method", blocks: Sequence[int]) -> None:
        from mer_plugins.bottleneck import attach_bottlenecks

        self.method, self.blocks, self.activation = method, blocks, "gelu"
        self.made = attach_bottlenecks(
            net, blocks, method.bottleneck, activation=self.activation, dropout=method.dropout
        )

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return their weights."""
        return {f"bottlenecks.{name}": weight for name, weight in self.made.named_parameters()}

    def state(self) -> dict[str, Tensor]:
        """Return `blocks.<k>.{down,up}.{weight,bias}`."""
        return self.made.tensors()

    def load(self, state: dict[str, Tensor]) -> None:
        """Take over tensors."""
        self.made.take(state)

    def config(self) -> dict[str, Any]:
        """Return width, blocks (from 0) and activation."""
        return {
            "peft_type": "BOTTLENECK",
            "bottleneck": self.method.bottleneck,
            "layers": list(self.blocks),
            "activation": self.activation,
        }

    def active(self) -> Iterator[nn.Module]:
        """Yield the bottlenecks."""
        return self.made.modules()


class Whole(Tuner):
    """The encoder's own weights.

    Args:
        net: The encoder.
        chosen: Names of its parameters, as the checkpoint's loader names them -> the parameters.
    """

    def __init__(self, chosen: dict[str, nn.Parameter]) -> None:
        self.chosen = chosen
        for weight in chosen.values():
            weight.requires_grad_(True)

    def parameters(self) -> dict[str, nn.Parameter]:
        """Return them."""
        return dict(self.chosen)

    def state(self) -> dict[str, Tensor]:
        """Return them."""
        return dict(self.chosen)

    def load(self, state: dict[str, Tensor]) -> None:
        """Copy tensors into them."""
        for name, weight in self.chosen.items():
            weight.data.copy_(state[name])

    def config(self) -> dict[str, Any]:
        """Return the type: the tensors say the rest."""
        return {"peft_type": "WEIGHTS"}


def make_tuner(extractor: "TransformerExtractor[Any]", method: "Method", blocks: Sequence[int]) -> Tuner:
    """Put into a loaded extractor's encoder what a method trains, drawing from torch's generator.

    Args:
        extractor: Loaded.
        method: The method.
        blocks: Of the method, from 0.

    Raises:
        PluginError: An encoder whose blocks are not found, or targets that are not in them.
    """
    net = extractor.net
    if method.name in method.low_rank:
        return LowRank(net, method, target_names(net, blocks, method.targets))
    if method.name == "bottleneck":
        return Behind(net, method, blocks)
    return Whole(_whole(extractor, blocks if method.name == "last" else None))


def target_names(net: Any, blocks: Sequence[int], targets: Sequence[str]) -> str:
    """Return a regular expression of the whole names of the linear maps to change.

    Args:
        net: The encoder.
        blocks: From 0.
        targets: Endings of names; none takes those of attention.

    Raises:
        PluginError: A target that no linear map of those blocks is called.
    """
    where, there = encoder_blocks(net)
    offered = {name for k in blocks for name in _linears(there[k])}
    chosen: set[str] = set()
    for target in targets:
        found = {name for name in offered if f".{name}".endswith(f".{target}")}
        if not found:
            raise PluginError(
                f"no linear map in the blocks of this {type(net).__name__} is called {target}",
                suggest(target, sorted({name.rpartition(".")[2] for name in offered} | offered)),
            )
        chosen |= found
    if not targets:
        chosen = {name for name in offered if _ATTENTION.search(name) and not _POSITION.search(name)}
    if not chosen:
        raise PluginError(
            f"{type(net).__name__} has no attention by name", f"name targets: {', '.join(sorted(offered))}"
        )
    inside = "|".join(re.escape(name) for name in sorted(chosen))
    return rf"{re.escape(where)}\.(?:{'|'.join(map(str, blocks))})\.(?:{inside})"


def _linears(block: nn.Module) -> list[str]:
    """Return the names of a block's linear maps."""
    from transformers.pytorch_utils import Conv1D  # GPT-2's, a linear map turned

    return [name for name, module in block.named_modules() if isinstance(module, (nn.Linear, Conv1D))]


def _whole(extractor: "TransformerExtractor[Any]", blocks: Sequence[int] | None) -> dict[str, nn.Parameter]:
    """Return the parameters of some blocks, or all that any row depends on."""
    from mer_plugins.audio.ragged import PerClip

    net = extractor.net
    where, there = encoder_blocks(net)
    within = range(extractor.deepest) if blocks is None else blocks
    unused = tuple(f"{where}.{k}." for k in range(len(there)) if k not in within)
    wrapped = [f"{name}." for name, module in net.named_modules() if isinstance(module, PerClip)]
    chosen: dict[str, nn.Parameter] = {}
    for name, weight in net.named_parameters():
        for outer in wrapped:
            name = name.replace(f"{outer}inner.", outer)
        spare = any(re.search(pattern, name) for pattern in (*extractor.spare, *extractor.fixed))
        if not spare and not name.startswith(unused) and (blocks is None or name.startswith(f"{where}.")):
            chosen[name] = weight
    return chosen


def write(folder: Path, tuner: Tuner, state: dict[str, Tensor], base: Source) -> None:
    """Write what was trained as peft lays adapters out.

    Args:
        folder: Made if need be.
        tuner: What was trained.
        state: Its tensors.
        base: The checkpoint it was trained on.
    """
    from safetensors.torch import save_file

    from mer_plugins.adapters import CONFIG, WEIGHTS

    folder.mkdir(parents=True, exist_ok=True)
    named = {"base_model_name_or_path": base.model, "revision": base.revision}
    if not base.revision:
        named = {"base_model_name_or_path": str(base.folder.resolve()), "revision": ""}
    config = tuner.config() | {name: value or None for name, value in named.items()}
    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / CONFIG).write_text(json.dumps(config, indent=2, sort_keys=True))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, (set, frozenset)) else str(value)
