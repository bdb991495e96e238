"""The native Baichuan against a computation by hand, LLaMA with equal weights, and the published sizes."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mer_plugins.errors import PluginError
from mer_plugins.text.baichuan_net import BaichuanConfig, BaichuanForCausalLM, BaichuanModel, alibi_slopes

SIZES = {"vocab_size": 61, "hidden_size": 48, "intermediate_size": 72, "num_hidden_layers": 3}
# What each published config.json says (Hugging Face, baichuan-inc); `auto_map` names remote code.
PUBLISHED: dict[str, dict[str, Any]] = {
    "Baichuan-7B": {
        "architectures": ["BaiChuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaiChuanForCausalLM"},
        "vocab_size": 64000, "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
        "num_attention_heads": 32, "max_position_embeddings": 4096,
    },
    "Baichuan-13B-Base": {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "gradient_checkpointing": [False],
        "vocab_size": 64000, "hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 40, "model_max_length": 4096,
    },
    "Baichuan2-13B-Base": {
        "architectures": ["BaichuanForCausalLM"],
        "auto_map": {"AutoModelForCausalLM": "modeling_baichuan.BaichuanForCausalLM"},
        "vocab_size": 125696, "hidden_size": 5120, "intermediate_size": 13696, "num_hidden_layers": 40,
        "num_attention_heads": 40, "model_max_length": 4096, "z_loss_weight": 0, "torch_dtype": "bfloat16",
    },
}  # fmt: skip
for _config in PUBLISHED.values():
    _config |= {
        "model_type": "baichuan", "hidden_act": "silu", "initializer_range": 0.02, "rms_norm_eps": 1e-6,
        "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": False,
        "use_cache": True, "transformers_version": "4.29.2",
    }  # fmt: skip


def tiny(**settings: Any) -> BaichuanForCausalLM:
    """Return a random model whose weights are large enough for attention to matter."""
    torch.manual_seed(3)
    model = BaichuanForCausalLM(BaichuanConfig(**SIZES, **settings)).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "norm" in name:
                weight.uniform_(0.5, 1.5)
            else:
                weight.normal_(std=0.15)
    return model


def by_hand(
    weights: dict[str, NDArray[Any]], ids: list[int], heads: int, layers: int, *, norm_head: bool
) -> tuple[list[NDArray[Any]], NDArray[Any]]:
    """Compute the ALiBi model in float64 numpy, token by token and head by head: hidden states and logits."""

    def norm(x: NDArray[Any], weight: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * weight)

    power = 2 ** int(math.log2(heads))
    slopes = [2 ** (-8 * (h + 1) / power) for h in range(power)]
    slopes += [2 ** (-4 * (2 * h + 1) / power) for h in range(heads - power)]
    x = weights["model.embed_tokens.weight"][ids]
    width = x.shape[1] // heads
    states = [x]
    for k in range(layers):
        at = f"model.layers.{k}."
        query, key, value = np.split(
            norm(x, weights[at + "input_layernorm.weight"]) @ weights[at + "self_attn.W_pack.weight"].T,
            3,
            axis=1,
        )
        mixed = np.zeros_like(x)
        for h in range(heads):
            part = slice(h * width, (h + 1) * width)
            for t in range(len(ids)):
                scores = [
                    query[t, part] @ key[s, part] / math.sqrt(width) + slopes[h] * s for s in range(t + 1)
                ]
                share = np.exp(np.array(scores) - max(scores))
                mixed[t, part] = share / share.sum() @ value[: t + 1, part]
        x = x + mixed @ weights[at + "self_attn.o_proj.weight"].T
        inner = norm(x, weights[at + "post_attention_layernorm.weight"])
        gate = inner @ weights[at + "mlp.gate_proj.weight"].T
        inner = gate / (1 + np.exp(-gate)) * (inner @ weights[at + "mlp.up_proj.weight"].T)
        x = x + inner @ weights[at + "mlp.down_proj.weight"].T
        states.append(x)
    states[-1] = norm(x, weights["model.norm.weight"])
    head = weights["lm_head.weight"]
    if norm_head:
        head = head / np.linalg.norm(head, axis=1, keepdims=True)
    return states, states[-1] @ head.T


@pytest.mark.parametrize("heads", [4, 6])
@pytest.mark.parametrize("norm_head", [False, True])
def test_alibi_model_equals_the_computation_by_hand(heads: int, norm_head: bool) -> None:
    """Every hidden state and the logits must be those of a float64 numpy computation, also for 6 heads."""
    model = tiny(num_attention_heads=heads, norm_head=norm_head)
    assert not model.config.rotary
    ids = [5, 17, 60, 1, 33, 2, 40, 9, 12]
    weights = {name: value.numpy().astype(np.float64) for name, value in model.state_dict().items()}
    states, logits = by_hand(weights, ids, heads, 3, norm_head=norm_head)
    with torch.inference_mode():
        out = model(torch.tensor([ids]), output_hidden_states=True)
    assert len(out.hidden_states) == 4
    for got, want in zip(out.hidden_states, states, strict=True):
        np.testing.assert_allclose(got[0].numpy(), want, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(out.logits[0].numpy(), logits, rtol=1e-4, atol=1e-5)
    assert np.abs(logits).max() > 0.1


def test_rotary_model_equals_llama_with_equal_weights() -> None:
    """The 7B network is LLaMA with query, key and value in one matrix: all hidden states must be equal."""
    from transformers import LlamaConfig, LlamaModel

    model = tiny(num_attention_heads=4, rotary=True).model
    llama = LlamaModel(LlamaConfig(**SIZES, num_attention_heads=4, rms_norm_eps=1e-6)).eval()
    weights = {}
    for name, value in model.state_dict().items():
        if "W_pack" in name:
            for letter, part in zip("qkv", value.chunk(3), strict=True):
                weights[name.replace("W_pack", f"{letter}_proj")] = part
        else:
            weights[name] = value
    llama.load_state_dict(weights, strict=True)
    ids = torch.arange(24).reshape(2, 12) * 2 + 1
    with torch.inference_mode():
        ours = model(ids, output_hidden_states=True).hidden_states
        theirs = llama(ids, output_hidden_states=True).hidden_states
    for got, want in zip(ours, theirs, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rotary", [False, True])
@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_on_either_side_changes_nothing(rotary: bool, side: str) -> None:
    """A sentence's states must not depend on padding, and none may be NaN."""
    model = tiny(num_attention_heads=6, rotary=rotary).model
    ids = torch.tensor([[7, 8, 9, 10, 11]])
    pad, ones = torch.zeros(1, 4, dtype=torch.long), torch.ones(1, 5, dtype=torch.long)
    order = [pad, ids] if side == "left" else [ids, pad]
    mask = torch.cat([pad, ones] if side == "left" else [ones, pad], dim=1)
    with torch.inference_mode():
        alone = model(ids).last_hidden_state
        padded = model(torch.cat(order, dim=1), mask).last_hidden_state
    assert padded.isfinite().all()
    part = padded[:, 4:] if side == "left" else padded[:, :5]
    torch.testing.assert_close(part, alone, rtol=1e-5, atol=1e-5)


def test_slopes_of_forty_heads() -> None:
    """40 heads have the 32 slopes of 32 heads, then the 1st, 3rd … of 64."""
    slopes = alibi_slopes(40)
    assert slopes[:32] == pytest.approx([2 ** (-(h + 1) / 4) for h in range(32)])
    assert slopes[32:] == pytest.approx([2 ** (-(2 * h + 1) / 8) for h in range(8)])


@pytest.mark.parametrize(
    ("name", "count", "rotary", "norm_head"),
    [
        ("Baichuan-7B", 7_000_559_616, True, False),
        ("Baichuan-13B-Base", 13_264_901_120, False, False),
        ("Baichuan2-13B-Base", 13_896_668_160, False, True),
    ],
)
def test_published_configurations(
    name: str, count: int, rotary: bool, norm_head: bool, tmp_path: Path
) -> None:
    """A published config.json must give its model: the published files' names, shapes and total count."""
    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    config = BaichuanConfig.from_pretrained(tmp_path)
    with torch.device("meta"):
        model = BaichuanForCausalLM(config)
    assert (config.rotary, config.norm_head) == (rotary, norm_head)
    got = {key: tuple(value.shape) for key, value in model.state_dict().items()}
    D, H, V = config.hidden_size, config.intermediate_size, config.vocab_size
    want = {"model.embed_tokens.weight": (V, D), "model.norm.weight": (D,), "lm_head.weight": (V, D)}
    for k in range(config.num_hidden_layers):
        at = f"model.layers.{k}."
        want |= {
            at + "self_attn.W_pack.weight": (3 * D, D),
            at + "self_attn.o_proj.weight": (D, D),
            at + "mlp.gate_proj.weight": (H, D),
            at + "mlp.up_proj.weight": (H, D),
            at + "mlp.down_proj.weight": (D, H),
            at + "input_layernorm.weight": (D,),
            at + "post_attention_layernorm.weight": (D,),
        }
    assert got == want
    assert sum(value.numel() for value in model.parameters()) == count


def test_impossible_sizes_are_refused() -> None:
    """A configuration whose heads do not divide its width must not make a model."""
    with pytest.raises(PluginError, match="5 attention heads"):
        BaichuanConfig(**SIZES, num_attention_heads=5)


def test_half_precision_stays_close() -> None:
    """In bfloat16 the ALiBi model must stay within bfloat16's precision of float32."""
    model = tiny(num_attention_heads=4).model
    ids = torch.arange(40)[None] + 3
    with torch.inference_mode():
        full = model(ids).last_hidden_state
        half = model.bfloat16()(ids).last_hidden_state
    assert half.dtype == torch.bfloat16
    assert (full - half.float()).norm() < 0.03 * full.norm()
    assert isinstance(model, BaichuanModel)


# Names and shapes as the index files of the published 13B checkpoints list them; {} is a block, 0 to 39.
BLOCK_13B = {
    "model.layers.{}.self_attn.W_pack.weight": (15360, 5120),
    "model.layers.{}.self_attn.o_proj.weight": (5120, 5120),
    "model.layers.{}.mlp.gate_proj.weight": (13696, 5120),
    "model.layers.{}.mlp.up_proj.weight": (13696, 5120),
    "model.layers.{}.mlp.down_proj.weight": (5120, 13696),
    "model.layers.{}.input_layernorm.weight": (5120,),
    "model.layers.{}.post_attention_layernorm.weight": (5120,),
}


@pytest.mark.parametrize(
    ("name", "vocabulary"), [("Baichuan-13B-Base", 64_000), ("Baichuan2-13B-Base", 125_696)]
)
def test_published_13b_weights_fit_and_take_a_lora(name: str, vocabulary: int, tmp_path: Path) -> None:
    """Tensors of the published names and shapes load strictly, and a LoRA of layers 16-21 goes onto them."""
    from mer_plugins.tunable import Method
    from mer_plugins.tuners import LowRank, target_names

    (tmp_path / "config.json").write_text(json.dumps(PUBLISHED[name]))
    shapes = {"model.embed_tokens.weight": (vocabulary, 5120), "model.norm.weight": (5120,)}
    shapes |= {key.format(k): shape for k in range(40) for key, shape in BLOCK_13B.items()}
    shapes["lm_head.weight"] = (vocabulary, 5120)
    with torch.device("meta"):
        model = BaichuanForCausalLM(BaichuanConfig.from_pretrained(tmp_path))
        tensors = {key: torch.empty(shape, dtype=torch.bfloat16) for key, shape in shapes.items()}
    model.load_state_dict(tensors, strict=True, assign=True)
    encoder = model.model.requires_grad_(False)
    with torch.device("meta"):
        lora = LowRank(encoder, Method(rank=8), target_names(encoder, range(15, 21), ()))
    trained = lora.parameters()
    assert sum(weight.numel() for weight in trained.values()) == 6 * 8 * ((5120 + 15360) + (5120 + 5120))
    assert {name.split(".")[1] for name in trained} == {"15", "16", "17", "18", "19", "20"}
    assert {name.split(".")[3] for name in trained} == {"W_pack", "o_proj"}
