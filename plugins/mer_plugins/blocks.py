"""Where an encoder keeps its transformer blocks, whatever it calls them."""

from typing import Any

from torch import nn

from mer_plugins.errors import PluginError

_NAMES = ("layer", "layers", "h", "block", "blocks")


def encoder_blocks(net: Any) -> tuple[str, nn.ModuleList]:
    """Return the list of an encoder's transformer blocks, and its dotted name within `net`.

    Layer 0 of the features is the input of the list's first block, layer k what its block k - 1 gives. The
    name is `encoder.layers` in HuBERT and its kin and in SigLIP, `vision_model.encoder.layers` in CLIP,
    `encoder.layer` in BERT, DINOv2 and VideoMAE, `layers` in Whisper's encoder, ViT and most decoders, `h` in
    BLOOM and GPT-2. It is the longest list of one of these names that lies in no other.

    Args:
        net: A transformers model, or any module with such a list; peft's own wrapper is looked through.

    Raises:
        PluginError: It has no such list, or several of the same length.
    """
    prefix, inner = "", net
    if hasattr(net, "get_base_model"):
        inner = net.get_base_model()
        prefix = next(f"{name}." for name, module in net.named_modules() if module is inner)
    found: dict[str, nn.ModuleList] = {}
    for name, module in inner.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] in _NAMES and not inside:
            found[name] = module
    longest = max(map(len, found.values()), default=0)
    names = [name for name, blocks in found.items() if len(blocks) == longest > 0]
    if len(names) != 1:
        several = (
            f"several lists of blocks ({', '.join(names)})" if names else "no list of transformer blocks"
        )
        raise PluginError(
            f"{type(inner).__name__} has {several}", "give an encoder of a family listed by mer-fs plugins"
        )
    return prefix + names[0], found[names[0]]
