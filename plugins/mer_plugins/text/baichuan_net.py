"""Baichuan and Baichuan 2, 7B and 13B, as plain modules under the published tensor names.

Transformers has no Baichuan of its own, and the code beside the published weights is remote code. This is
the same network written from its architecture: pre-norm decoder blocks with RMSNorm, one packed projection
for query, key and value (`W_pack`), a SwiGLU MLP; ALiBi on 13B, rotary positions on 7B; Baichuan 2 normalises
the rows of its output head. There is no key-value cache: features need one forward pass and no generation.
"""

# mypy: disable-error-code="no-untyped-call"
# transformers leaves its own base classes and their set-up methods untyped

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput

from mer_plugins.errors import PluginError

ROTARY_WIDTHS = {4096: True, 5120: False}  # hidden size of the published 7B and 13B models
NORM_HEAD_VOCABULARY = 125_696  # Baichuan 2; the first generation has 64,000 tokens and a plain head


class BaichuanConfig(PreTrainedConfig):
    """The published `config.json`, with the two things it leaves to the code beside it made explicit.

    Attributes:
        rotary: Rotary positions (7B) or ALiBi (13B). When not given, decided by the published widths, and
            for any other width by whether there is a `max_position_embeddings`, which only the 7B files have.
        norm_head: Whether the rows of the output head are normalised; when not given, they are if the
            vocabulary is that of Baichuan 2.
    """

    model_type = "baichuan"

    vocab_size: int = 64_000
    hidden_size: int = 5120
    intermediate_size: int = 13_696
    num_hidden_layers: int = 40
    num_attention_heads: int = 40
    hidden_act: str = "silu"
    model_max_length: int = 4096
    max_position_embeddings: int | None = None
    initializer_range: float = 0.02
    rms_norm_eps: float = 1e-6
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    eos_token_id: int | None = 2
    tie_word_embeddings: bool = False
    rotary: bool | None = None
    norm_head: bool | None = None

    def __post_init__(self, **kwargs: Any) -> None:
        """Settle what the published files leave open.

        Raises:
            PluginError: Sizes that do not fit together, or another activation than SwiGLU's.
        """
        if self.hidden_size % self.num_attention_heads or self.hidden_act != "silu":
            raise PluginError(
                f"no Baichuan has hidden_size {self.hidden_size}, {self.num_attention_heads} attention heads "
                f"and hidden_act {self.hidden_act!r}",
                "compare config.json with the published one",
            )
        if self.rotary is None:
            self.rotary = ROTARY_WIDTHS.get(self.hidden_size, self.max_position_embeddings is not None)
        if self.norm_head is None:
            self.norm_head = self.vocab_size == NORM_HEAD_VOCABULARY
        super().__post_init__(**kwargs)


def alibi_slopes(heads: int) -> list[float]:
    """Return one slope per head (Press et al. 2022), a geometric series.

    For 40 heads: the 32 slopes of 32 heads, then every other one of 64 heads.
    """
    power = 2 ** math.floor(math.log2(heads))
    slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
    return slopes + alibi_slopes(2 * power)[0::2][: heads - power] if power < heads else slopes


def alibi(heads: int, length: int, device: torch.device) -> Tensor:
    """Return float32 `[heads, length, length]`: slope times how far the key lies behind the query, negated.

    The first Baichuan-13B adds slope times the key's own position instead; a row differs from this one by a
    constant, which softmax takes out, and distances stay small enough for half precision.
    """
    position = torch.arange(length, device=device, dtype=torch.float32)
    behind = (position[None, :] - position[:, None]).clamp(max=0)
    return torch.tensor(alibi_slopes(heads), device=device)[:, None, None] * behind


def rotary(width: int, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosines and sines, float32 `[length, width]` each, base 10,000, both halves of a head alike."""
    frequency = 10_000.0 ** (-torch.arange(0, width, 2, device=device, dtype=torch.float32) / width)
    angle = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequency[None, :]
    angle = torch.cat([angle, angle], dim=-1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn `[B, heads, T, width]` by its positions, in float32, back in the dtype it came in."""
    first, second = x.float().chunk(2, dim=-1)
    return (x.float() * cos + torch.cat([-second, first], dim=-1) * sin).to(x.dtype)


class BaichuanRMSNorm(nn.Module):
    """Root-mean-square norm, computed in float32."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        """Return `x` over its root mean square, times the weight; any shape `[…, width]`."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(self.weight.dtype)


class BaichuanMLP(nn.Module):
    """SwiGLU: `down(silu(gate(x)) * up(x))`."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map `[B, T, hidden]` to `[B, T, hidden]`."""
        hidden: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return hidden


class BaichuanAttention(nn.Module):
    """Causal self-attention with query, key and value in one projection."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.W_pack = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=False)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor, bias: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """Attend within `[B, T, hidden]` under the additive `bias` `[B or 1, heads or 1, T, T]`."""
        B, T, width = x.shape
        packed = self.W_pack(x).view(B, T, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = packed.unbind(0)
        if turn is not None:
            query, key = rotate(query, *turn), rotate(key, *turn)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=bias)
        out: Tensor = self.o_proj(mixed.transpose(1, 2).reshape(B, T, width))
        return out


class BaichuanLayer(GradientCheckpointingLayer):
    """One pre-norm block."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__()
        self.self_attn = BaichuanAttention(config)
        self.mlp = BaichuanMLP(config)
        self.input_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, bias: Tensor, turn: tuple[Tensor, Tensor] | None) -> Tensor:
        """Map `[B, T, hidden]` to `[B, T, hidden]`."""
        x = x + self.self_attn(self.input_layernorm(x), bias, turn)
        out: Tensor = x + self.mlp(self.post_attention_layernorm(x))
        return out


class BaichuanPreTrainedModel(PreTrainedModel):
    """What the two models below share with transformers' loader."""

    config_class = BaichuanConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _no_split_modules = ["BaichuanLayer"]  # noqa: RUF012  # transformers reads a list here
    _supports_sdpa = True
    # The 7B files carry the rotary frequencies, which are computed here.
    _keys_to_ignore_on_load_unexpected = [r"rotary_emb\.inv_freq"]  # noqa: RUF012  # as above


class BaichuanModel(BaichuanPreTrainedModel):
    """The decoder without its head."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, config.pad_token_id)
        self.layers = nn.ModuleList(BaichuanLayer(config) for _ in range(config.num_hidden_layers))
        self.norm = BaichuanRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.gradient_checkpointing = False
        self.post_init()

    def bias(self, length: int, attention_mask: Tensor | None, like: Tensor) -> Tensor:
        """Return what is added to attention scores: causal, padded keys out, ALiBi where the model has it."""
        heads = 1 if self.config.rotary else self.config.num_attention_heads
        bias = like.new_zeros(1, 1, length, length, dtype=torch.float32)
        if not self.config.rotary:
            bias = alibi(heads, length, like.device)[None]
        seen = torch.ones(length, length, dtype=torch.bool, device=like.device).tril()[None, None]
        if attention_mask is not None:
            seen = seen & attention_mask[:, None, None, :].to(like.device).bool()
        # The lowest finite number, not -inf: a row of left padding sees nothing and must not become NaN.
        return bias.masked_fill(~seen, torch.finfo(like.dtype).min).to(like.dtype)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> BaseModelOutput:
        """Run the decoder.

        Args:
            input_ids: int64 `[B, T]`.
            attention_mask: `[B, T]`, 1 on tokens, 0 on padding (either side); None when all are tokens.
            output_hidden_states: Also return `layers + 1` states: the embeddings, each block's output, the
                last one after the final norm, as transformers' LLaMA counts them.

        Returns:
            `last_hidden_state` `[B, T, hidden]` and `hidden_states` (a tuple of such, or None).
        """
        x = self.embed_tokens(input_ids)
        T = x.shape[1]
        bias = self.bias(T, attention_mask, x)
        head = self.config.hidden_size // self.config.num_attention_heads
        turn = rotary(head, T, x.device) if self.config.rotary else None
        states: list[Tensor] = []
        for layer in self.layers:
            if output_hidden_states:
                states.append(x)
            x = layer(x, bias, turn)
        x = self.norm(x)
        return BaseModelOutput(
            last_hidden_state=x, hidden_states=(*states, x) if output_hidden_states else None
        )


class BaichuanForCausalLM(BaichuanPreTrainedModel):
    """The decoder with its head, for logits."""

    def __init__(self, config: BaichuanConfig) -> None:
        super().__init__(config)
        self.model = BaichuanModel(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        **_: Any,
    ) -> CausalLMOutput:
        """Return logits `[B, T, vocab]` for the arguments of `BaichuanModel.forward`."""
        out = self.model(input_ids, attention_mask, output_hidden_states)
        weight = F.normalize(self.lm_head.weight) if self.config.norm_head else self.lm_head.weight
        return CausalLMOutput(logits=F.linear(out.last_hidden_state, weight), hidden_states=out.hidden_states)
