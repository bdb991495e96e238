"""Bottleneck adapters: nothing at first, then exactly what an independent computation gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from mer_plugins.blocks import encoder_blocks
from mer_plugins.bottleneck import attach_bottlenecks
from mer_plugins.contract import Options
from mer_plugins.errors import PluginError
from mer_plugins.host import find_extractor, make_extractor
from support.tiny import MAKERS


@pytest.fixture
def loaded(base: Callable[[str], Path]) -> Any:
    """Return a function that loads the encoder of a tiny checkpoint."""

    def load(name: str) -> Any:
        extractor = make_extractor(find_extractor(name), Options(model=str(base(name)), device="cpu"))
        extractor.load()
        return extractor

    return load


def inputs(extractor: Any) -> dict[str, torch.Tensor]:
    """Return something the encoder takes."""
    name = extractor.net.main_input_name
    torch.manual_seed(0)
    if name == "input_values":
        return {name: torch.randn(1, 4000)}
    if name == "input_features":
        return {name: torch.randn(1, 16, 200)}
    if name == "input_ids":
        return {name: torch.arange(4, 12)[None]}
    return {name: torch.randn(1, 8, 3, 28, 28) if extractor.kind == "videomae" else torch.randn(1, 3, 28, 28)}


FAMILIES = [*MAKERS, "whisper"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family(name: str, loaded: Any) -> None:
    """The blocks of every family are found; new bottlenecks change no bit, trained ones the later layers."""
    extractor = loaded(name)
    net, given = extractor.net, inputs(extractor)
    _, blocks = encoder_blocks(net)
    assert len(blocks) == extractor.blocks
    with torch.inference_mode():
        before = net(**given, output_hidden_states=True).hidden_states
        made = attach_bottlenecks(net, [len(blocks) - 2], 3)
        after = net(**given, output_hidden_states=True).hidden_states
        assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
        nn.init.normal_(made[str(len(blocks) - 2)].up.weight)
        changed = net(**given, output_hidden_states=True).hidden_states
    same = [torch.equal(a, b) for a, b in zip(before, changed, strict=True)]
    assert same == [True] * (len(blocks) - 1) + [False, False]


@pytest.mark.parametrize("name", ["hubert-large", "bloom-560m"])
def test_independent_computation(name: str, loaded: Any) -> None:
    """Behind a block stands x + up(act(down(x))) of that block's output, computed by hand block by block."""
    net = loaded(name).net
    given = inputs(loaded(name))
    made = attach_bottlenecks(net, [1], 4, activation="relu")
    for weight in made.parameters():
        nn.init.normal_(weight)
    seen: list[torch.Tensor] = []

    def note(module: Any, args: Any, output: Any) -> None:
        seen.append(output[0] if isinstance(output, tuple) else output)

    encoder_blocks(net)[1][1].register_forward_hook(note, prepend=True)
    with torch.inference_mode():
        layer = net(**given, output_hidden_states=True).hidden_states[2]
        (x,) = seen
        w = {key.removeprefix("blocks.1."): value for key, value in made.tensors().items()}
        inside = (x @ w["down.weight"].T + w["down.bias"]).clamp(min=0)
        assert torch.allclose(layer, x + inside @ w["up.weight"].T + w["up.bias"], atol=1e-5)


def test_only_they_learn(loaded: Any) -> None:
    """Gradients reach the bottlenecks through frozen blocks, the same ones under gradient checkpointing."""
    extractor = loaded("llama2-7b")
    net = extractor.net.train()
    made = attach_bottlenecks(net, [0, 3], 4, generator=torch.Generator().manual_seed(1))
    given = inputs(extractor)
    grads = []
    for checkpointing in (False, True):
        if checkpointing:
            net.activation_checkpointing_enable()
        made.zero_grad()
        net(**given).last_hidden_state.pow(2).sum().backward()
        grads.append([weight.grad.clone() for weight in made.parameters()])
    assert all(torch.allclose(a, b) for a, b in zip(*grads, strict=True))
    assert any(grad.abs().max() > 0 for grad in grads[0])
    assert {n for n, p in net.named_parameters() if p.requires_grad} == {
        f"bottlenecks.{k}.{part}.{kind}"
        for k in (0, 3) for part in ("down", "up") for kind in ("weight", "bias")
    }  # fmt: skip


def test_round_trip_and_half_precision(loaded: Any) -> None:
    """Weights move from one encoder to another, and a half-precision encoder keeps its type."""
    first, second = loaded("llama2-7b"), loaded("llama2-7b")
    made = attach_bottlenecks(first.net, [0, 2], 4)
    nn.init.normal_(made["2"].up.weight)
    attach_bottlenecks(second.net, [0, 2], 4).take(made.tensors())
    with torch.inference_mode():
        outs = [e.net(**inputs(e)).last_hidden_state for e in (first, second)]
        assert torch.equal(*outs)
        half = second.net.to(torch.bfloat16)(**inputs(second)).last_hidden_state
    assert half.dtype == torch.bfloat16


def test_refusals(loaded: Any) -> None:
    """Blocks out of range, activations and sizes that make no sense, other weights: each has its error."""
    net = loaded("roberta-large").net
    for blocks, size, activation, message in (
        ([5], 4, "gelu", r"5 blocks \(encoder.layer\) and no block 5"),
        ([], 4, "gelu", "no blocks were chosen"),
        ([0], 0, "gelu", "size 0"),
        ([0], 4, "gelo", "no activation 'gelo'"),
    ):
        with pytest.raises(PluginError, match=message):
            attach_bottlenecks(net, blocks, size, activation=activation)
    made = attach_bottlenecks(net, [0], 4)
    with pytest.raises(PluginError, match="already"):
        attach_bottlenecks(net, [0], 4)
    with pytest.raises(PluginError, match=r"do not fit: .*down.weight"):
        made.take({key: value[..., :2] for key, value in made.tensors().items()})
    with pytest.raises(PluginError, match="no list of transformer blocks"):
        encoder_blocks(nn.Linear(2, 2))
