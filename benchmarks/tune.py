"""Training steps of encoders: seconds a step and peak memory, by method, of random weights.

With a GPU: HuBERT-large, CLIP-ViT-large (autocast to bfloat16) and Baichuan-13B (held in bfloat16), as
published. Without one: the same networks made small, which says that it runs and how methods compare, and no
more. Each case runs in a process of its own, from Tunable.attach to a few AdamW steps on a batch of eight
prepared inputs; weights are random numbers made on the device, so nothing is downloaded and reading a
checkpoint is not measured.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Results, memory

CLIPS = 8
STEPS = 5
# Method, blocks (as layers are typed; None: all), gradient checkpointing.
WAYS: dict[str, tuple[str, tuple[float, float] | None, bool]] = {
    "lora, a quarter of the blocks": ("lora", (16 / 24, 21 / 24), False),
    "lora, all blocks": ("lora", None, False),
    "lora, all blocks, checkpointing": ("lora", None, True),
    "dora, all blocks": ("dora", None, False),
    "bottleneck, all blocks": ("bottleneck", None, False),
    "full": ("full", None, False),
    "full, checkpointing": ("full", None, True),
}
_PIXELS = {
    "do_center_crop": True, "do_normalize": True, "do_rescale": True, "do_resize": True,
    "image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28],
}  # fmt: skip
_SMALL = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 6, "num_attention_heads": 4}


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Measure every model by every method and print a table."""
    import torch

    gpu = torch.cuda.is_available()
    where = f"{torch.cuda.get_device_name()}, published sizes" if gpu else "CPU, small sizes"
    results = Results()
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as root:
        for name in MODELS:
            for way in list(WAYS)[:3] if quick else WAYS:
                if name == "baichuan-13b" and way.startswith("full"):
                    continue  # 13 billion float32 weights with AdamW's two moments each are 210 GB
                call = f"step({name!r}, {way!r}, {root!r}, large={gpu}, steps={2 if quick else STEPS})"
                _note(results, f"{name}: {way}", call)
    results.show(f"Tuning on {where}" + (" (quick: two steps each)" if quick else ""))


def _note(results: Results, what: str, call: str) -> None:
    """Run a case in a fresh process and note its figures, or that it does not fit."""
    code = f"from benchmarks import tune; tune.{call}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode:
        print(f"  {what}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return
    found = json.loads(done.stdout.splitlines()[-1])
    if what.endswith("a quarter of the blocks"):
        print(f"  {found['size']}", flush=True)
    results.add(what, "a step", found["seconds"], unit="s")
    results.add(what, "peak memory", found["peak"], unit="GB")
    results.add(what, "trained", found["trained"] / 1e6, unit="M")


def step(name: str, way: str, root: str, *, large: bool, steps: int) -> None:
    """Take AdamW steps and print, as JSON, the median of their seconds, the peak memory and the sizes."""
    import peft  # noqa: F401 - so that the memory of the libraries is there before, and not counted
    import torch
    import transformers.models.hubert.modeling_hubert  # noqa: F401 - as above

    from mer_plugins.tunable import Method, Tunable

    before = memory()["VmRSS"]
    extractor, batch, size = MODELS[name](Path(root), large)
    method, share, checkpointing = WAYS[way]
    blocks = extractor.blocks
    layers = tuple(range(round(share[0] * blocks), round(share[1] * blocks) + 1)) if share else None
    settings = Method(name=method, layers=layers)
    tunable = Tunable.attach(extractor, settings, seed=0, gradient_checkpointing=checkpointing)
    head = torch.nn.Linear(tunable.width, 6).to(extractor.place)
    optimiser = torch.optim.AdamW([*tunable.trainable().values(), *head.parameters()], lr=1e-4)
    label = torch.arange(len(batch), device=extractor.place) % 6
    mixed = large and extractor.dtype == "float32"
    tunable.net.train()
    times = []
    for _ in range(steps + 1):
        _wait(large)
        started = time.perf_counter()
        with torch.autocast("cuda", torch.bfloat16) if mixed else nullcontext():
            pooled = torch.stack([rows.mean(0) for rows in tunable.rows(batch)])
            loss = torch.nn.functional.cross_entropy(head(pooled), label)
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        _wait(large)
        times.append(time.perf_counter() - started)
    peak = torch.cuda.max_memory_allocated() / 1e9 if large else (memory()["VmHWM"] - before) / 1e3
    trained, total = tunable.counts
    size = f"{name}: {total / 1e6:.0f} M parameters, {blocks} blocks, {size}, {extractor.dtype}"
    facts = {"seconds": statistics.median(times[1:]), "peak": peak, "trained": trained, "size": size}
    print(json.dumps(facts))


def _wait(gpu: bool) -> None:
    import torch

    if gpu:
        torch.cuda.synchronize()


def _extractor(root: Path, name: str, config: Any, files: dict[str, Any], precision: str = "float32") -> Any:
    """Return an extractor whose weights will be random numbers, of a folder that holds its settings alone."""
    import torch

    from mer_plugins.checkpoints import pick_device
    from mer_plugins.contract import Options
    from mer_plugins.host import find_extractor

    folder = root / name
    folder.mkdir(exist_ok=True)
    config.save_pretrained(folder)
    for file, facts in files.items():
        (folder / file).write_text(json.dumps(facts))
    extractor: Any = find_extractor(name).build(Options(model=str(folder), extra={"precision": precision}))

    def random_net(architecture: Any, **_: Any) -> Any:
        torch.set_default_dtype(getattr(torch, precision))
        try:
            with torch.device(pick_device("auto")):
                make = getattr(architecture, "from_config", architecture)
                return make(config).eval().requires_grad_(False)
        finally:
            torch.set_default_dtype(torch.float32)

    extractor.load_net = random_net
    return extractor


def hubert(root: Path, large: bool) -> tuple[Any, list[Any], str]:
    """Return HuBERT-large's extractor and eight clips of sound."""
    from transformers import HubertConfig

    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    norms = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    small = {**_SMALL, "conv_dim": (64,) * 7}
    config = HubertConfig(**(sizes if large else small), **norms)
    extractor = _extractor(
        root, "hubert-large", config, {"preprocessor_config.json": {"sampling_rate": 16_000}}
    )
    seconds = 5 if large else 1
    chance = np.random.default_rng(0)
    sound = [chance.standard_normal(16_000 * seconds).astype(np.float32) for _ in range(CLIPS)]
    return extractor, sound, f"{CLIPS} clips of {seconds} s"


def clip(root: Path, large: bool) -> tuple[Any, list[Any], str]:
    """Return CLIP-ViT-large's extractor and eight clips of frames."""
    from transformers import CLIPVisionConfig

    sizes = {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
    }
    side, patch = (224, 14) if large else (64, 16)
    config = CLIPVisionConfig(
        **(sizes if large else _SMALL), image_size=side, patch_size=patch, projection_dim=768
    )
    pixels = {**_PIXELS, "size": side, "crop_size": side}
    extractor = _extractor(root, "clip-vit-large", config, {"preprocessor_config.json": pixels})
    chance = np.random.default_rng(0)
    frames = [chance.integers(0, 256, (8, side, side, 3), dtype=np.uint8) for _ in range(CLIPS)]
    return extractor, frames, f"{CLIPS} clips of 8 frames, {side} x {side}"


def baichuan(root: Path, large: bool) -> tuple[Any, list[Any], str]:
    """Return Baichuan-13B's extractor and eight transcripts."""
    from mer_plugins.text.baichuan_net import BaichuanConfig

    config = BaichuanConfig() if large else BaichuanConfig(**_SMALL, vocab_size=4000, rotary=False)
    precision = "bfloat16" if large else "float32"
    extractor = _extractor(root, "baichuan-13b", config, {}, precision)
    extractor.read_tokenizer = lambda: None  # inputs are tokens already
    length = 64 if large else 32
    ids = np.random.default_rng(0).integers(3, 4000, (CLIPS, length))
    tokens = [np.stack([row, np.ones_like(row)], axis=1) for row in ids]
    return extractor, tokens, f"{CLIPS} transcripts of {length} tokens"


MODELS: dict[str, Callable[[Path, bool], tuple[Any, list[Any], str]]] = {
    "hubert-large": hubert,
    "clip-vit-large": clip,
    "baichuan-13b": baichuan,
}
