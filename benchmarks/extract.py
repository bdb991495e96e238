"""The extraction pipeline against its own encoder, and against one clip at a time, on clips of mixed lengths.

Three ways, interleaved, with the same weights on the same clips, all in one process: `bare` encodes inputs
that are decoded already, in full batches, and keeps nothing; `pipeline` is all of `mer-fs extract` but for
loading weights; `loop` is what baseline scripts do: decode a clip, run transformers' model, sum four layers,
average, save an .npy file. On a CPU every encoder runs clip by clip in all three (a feature must not depend
on its neighbours in the last bit), so what the pipeline can gain there is decoding ahead and not computing
what is not needed; on a GPU it batches.

Clips are EmoDB's where `../shared` has them, otherwise made; weights are Whisper tiny's where it has them,
and random ones in the sizes of HuBERT base (CPU) or HuBERT large (GPU).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Results, compare, memory
from mer_featurestore import Clip, Store
from mer_plugins.ahead import Prepared
from mer_plugins.batches import Limit, in_batches
from mer_plugins.contract import Options
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.samples import voice, write_wav

SHARED = Path(__file__).parents[2] / "shared"
AT_LEAST, AT_MOST = ">=", "<="
Way = Callable[[], object]


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Measure everything and print a table."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name:
        root = Path(name)
        clips = real_clips(root, 6 if quick else 160)
        for plugin, model in _encoders(root):
            _throughput(results, root, plugin, model, clips, rounds=2 if quick else 3)
        _memory(results, root, (50, 500) if quick else (200, 2000, 20_000))
    results.show("Extraction" + (" (quick: sizes too small to judge)" if quick else ""))


def real_clips(root: Path, count: int) -> list[Clip]:
    """Return clips of 1.2 to 9 seconds: EmoDB's, spread over its speakers, else made ones of such lengths."""
    wavs = sorted((SHARED / "data" / "emodb" / "wav").glob("*.wav"))
    if wavs:
        print(f"{count} clips of EmoDB", flush=True)
        wavs = wavs[:: max(1, len(wavs) // count)][:count]
    else:
        print(f"{count} made clips: no EmoDB in {SHARED}", flush=True)
        lengths = np.random.default_rng(0).gamma(6, 0.45, count) + 1
        wavs = [write_wav(root / f"{k}.wav", voice(s, 90 + k)) for k, s in enumerate(lengths)]
    return [Clip(key=f"k{k:04d}", audio=str(path)) for k, path in enumerate(wavs)]


def _encoders(root: Path) -> list[tuple[str, Path]]:
    """Return extractors with their checkpoints: Whisper tiny, and a HuBERT of random weights."""
    import torch
    from transformers import HubertConfig, HubertModel, Wav2Vec2FeatureExtractor

    found = []
    whisper = SHARED / "models" / "whisper-tiny-en"
    if whisper.is_dir():
        found.append(("whisper", whisper))
    gpu = torch.cuda.is_available()
    large = {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
    }
    stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    torch.manual_seed(0)
    size = "large" if gpu else "base"
    HubertModel(HubertConfig(**(large | stable if gpu else {}))).save_pretrained(root / size)
    Wav2Vec2FeatureExtractor(do_normalize=gpu).save_pretrained(root / size)
    return [*found, (f"hubert-{size}", root / size)]


def _throughput(
    results: Results, root: Path, plugin: str, model: Path, clips: list[Clip], rounds: int
) -> None:
    """Time the three ways; the pipeline's time is without loading, as that of the others is."""
    options = Options(model=str(model))
    extractor: Any = make_extractor(find_extractor(plugin), options)
    extractor.load()
    ready = [Prepared(clip, extractor.prepare(clip), None, 0.0) for clip in clips]
    batches = list(in_batches(ready, extractor.cost, Limit(extractor.batch_cost)))
    inside: list[float] = []

    def bare() -> None:
        for batch in batches:
            extractor.encode([item.value for item in batch])

    def pipeline() -> None:
        store = Store.create(Path(tempfile.mkdtemp(dir=root)) / "store")
        store.clips.add(clips)
        report = extract(store, plan(store, Request(plugin=plugin, options=options, levels=("utt", "frame"))))
        assert report.done == len(clips), report.failed
        inside.append(report.seconds["total"] - report.seconds["load"])

    loop = _loop(plugin, model, clips, root)
    bare()  # the first run of anything is slower
    ways: dict[str, Way] = {"bare": bare, "pipeline": pipeline, "loop": loop}
    times = compare({name: lambda _, way=way: way() for name, way in ways.items()}, rounds)  # type: ignore[misc]
    ours, seconds = statistics.median(inside), sum(extractor.seconds(item.value) for item in ready)
    results.add("pipeline / bare encoder", plugin, times["bare"] / ours, (AT_LEAST, 0.9))
    faster = 1.5 if extractor.place.type == "cpu" else 8.0
    results.add("pipeline / one clip at a time", plugin, times["loop"] / ours, (AT_LEAST, faster))
    results.add("pipeline", plugin, len(clips) / ours, unit="clips/s")
    results.add("pipeline, realtime", plugin, seconds / ours, unit="x")
    extractor.close()


def _loop(plugin: str, model: Path, clips: list[Clip], root: Path) -> Way:
    """Return what baseline scripts do, clip by clip, with transformers alone."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    from mer_plugins.media import read_audio

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader, net = AutoFeatureExtractor.from_pretrained(model), AutoModel.from_pretrained(model)
    net = (net.encoder if plugin == "whisper" else net).eval().to(device)
    folder = Path(tempfile.mkdtemp(dir=root))

    def features(sound: Any) -> Any:
        inputs = reader(sound, sampling_rate=16_000, return_tensors="pt").to(device)
        states = net(**inputs, output_hidden_states=True).hidden_states
        return torch.stack(states)[-4:].sum(dim=0)[0].mean(dim=0).cpu().numpy()

    def loop() -> None:
        with torch.no_grad():
            for clip in clips:
                np.save(folder / f"{clip.key}.npy", features(read_audio(str(clip.audio))))

    return loop


def _memory(results: Results, root: Path, counts: tuple[int, ...]) -> None:
    """Peak memory of `prosody`, both levels, in a process of its own per size of corpus."""
    paths = [str(write_wav(root / f"short{k}.wav", voice(0.2 + 0.02 * k, 100 + 10 * k))) for k in range(20)]
    peaks = []
    for count in counts:
        task = json.dumps({"folder": tempfile.mkdtemp(dir=root), "count": count, "paths": paths})
        code = "from benchmarks.extract import peak; peak()"
        done = subprocess.run(
            [sys.executable, "-c", code, task],
            check=True,
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )
        peaks.append(float(done.stdout))
        results.add("peak memory", f"{count} clips", peaks[-1], unit="MB")
    results.add("peak memory, largest / smallest corpus", "prosody", peaks[-1] / peaks[0], (AT_MOST, 1.15))


def peak() -> None:
    """Extract a corpus made of a few files and print the process' peak memory in MB (in a child process)."""
    task = json.loads(sys.argv[1])
    store = Store.create(Path(task["folder"]) / "store")
    paths = task["paths"]
    store.clips.add(Clip(key=f"k{k:06d}", audio=paths[k % len(paths)]) for k in range(task["count"]))
    report = extract(store, plan(store, Request(plugin="prosody", levels=("utt", "frame"))))
    assert report.done == task["count"], report.failed
    print(memory()["VmHWM"])
