"""A base held in 4 or 8 bits while it is trained, through transformers and bitsandbytes (`mer-fs[quant]`)."""

from importlib.util import find_spec
from typing import Any

from mer_plugins.errors import PluginError

QUANTIZATIONS = ("4bit", "8bit")


def bits_and_bytes(bits: str, dtype: str) -> Any:
    """Return transformers' configuration of a quantised base, as QLoRA has it (Dettmers et al. 2023).

    Args:
        bits: `4bit`: NF4 with doubly quantised constants; `8bit`: LLM.int8().
        dtype: What is computed in.

    Raises:
        PluginError: bitsandbytes is not there, or there is no GPU.
    """
    import torch

    if find_spec("bitsandbytes") is None:
        raise PluginError(
            f"a {bits} base needs bitsandbytes, which is not installed",
            "pip install 'mer-fs[quant]', or train the base as it is",
        )
    if not torch.cuda.is_available():
        raise PluginError(f"a {bits} base needs a GPU", "train the base as it is, or a smaller one")
    from transformers import BitsAndBytesConfig

    make: Any = BitsAndBytesConfig
    if bits == "8bit":
        return make(load_in_8bit=True)
    return make(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=getattr(torch, dtype),
    )
