"""WavLM's attention in a form that adapters can be trained in.

transformers hands the weights of the query, key, value and output projections to torch's functional
attention, past the modules themselves: a LoRA in those modules would take part in nothing and learn nothing,
and only show once it is merged. Here the modules are called.
"""

from functools import partial
from typing import Any

from torch import Tensor
from torch.nn import functional as F


def through_modules(net: Any) -> None:
    """Make every attention of a WavLM call its projections; what it computes is the same to rounding."""
    from transformers.models.wavlm.modeling_wavlm import WavLMAttention

    for module in net.modules():
        if isinstance(module, WavLMAttention):
            attention: Any = module
            attention.torch_multi_head_self_attention = partial(_attend, attention)


def _attend(module: Any, x: Tensor, mask: Tensor | None, bias: Tensor) -> tuple[Tensor, None]:
    """Attend within `[B, T, D]`; `bias` `[B * heads, T, T]` is added, `mask` `[B, T]` is 1 on frames."""
    B, T, width = x.shape
    heads = (B, T, module.num_heads, width // module.num_heads)
    query, key, value = (
        project(x).view(heads).transpose(1, 2) for project in (module.q_proj, module.k_proj, module.v_proj)
    )
    bias = bias.view(B, module.num_heads, T, T).to(query.dtype)
    if mask is not None:
        bias = bias.masked_fill(mask[:, None, None, :].ne(1), float("-inf"))
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
    out: Tensor = module.out_proj(mixed.transpose(1, 2).reshape(B, T, width))
    return out, None
