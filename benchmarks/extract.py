"""The extraction pipeline against its own encoder, and against one clip at a time, on clips of mixed lengths.

Three ways, interleaved, with the same weights on the same clips, all in one process: `bare` encodes inputs
that are decoded already, in full batches, and keeps nothing; `pipeline` is all of `mer-fs extract` but for
loading weights; `loop` is what baseline scripts do: decode a clip, run transformers' model, sum four layers
(CLIP: its embedding), average, save an .npy file. On a CPU every encoder runs clip by clip in all three (a
feature must not depend on its neighbours in the last bit), so what the pipeline can gain there is decoding
ahead and not computing what is not needed; on a GPU it batches. `--procs 2` is the pipeline in two processes
that share the cores, without their start.

Clips are real ones where `../shared` has them (EmoDB's, up to four joined, and the composite's), otherwise
made; weights are Whisper tiny's where it has them, and random ones in the sizes of HuBERT base and CLIP B/32
(CPU) or HuBERT large and CLIP L/14 (GPU).
"""

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.measure import Results, compare, memory
from mer_featurestore import Clip, Store
from mer_plugins.ahead import Prepared
from mer_plugins.batches import Limit, in_batches
from mer_plugins.checkpoints import quiet
from mer_plugins.contract import Options
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.media import iter_frames, read_audio
from mer_plugins.pipeline import ExtractReport, extract
from mer_plugins.plan import Request, plan
from mer_plugins.samples import voice, write_wav
from mer_plugins.workers import extract_in_processes

SHARED = Path(__file__).parents[2] / "shared"
AT_LEAST, AT_MOST = ">=", "<="
LARGE = {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
Way = Callable[[], object]


@dataclass(frozen=True)
class Case:
    """An encoder with its weights and clips.

    Attributes:
        plugin: Name of the extractor.
        model: Folder of its checkpoint.
        clips: What it reads.
        extra: The extractor's own options.
    """

    plugin: str
    model: Path
    clips: list[Clip]
    extra: Mapping[str, str] = field(default_factory=dict)

    def request(self) -> Request:
        """Return what `mer-fs extract` is told."""
        options = Options(model=str(self.model), extra=self.extra)
        return Request(plugin=self.plugin, options=options, levels=("utt", "frame"))

    def store(self, root: Path) -> Store:
        """Return a new store with the clips."""
        store = Store.create(Path(tempfile.mkdtemp(dir=root)) / "store")
        store.clips.add(self.clips)
        return store


def run(*, quick: bool, folder: Path | None = None) -> None:
    """Measure everything and print a table."""
    results = Results()
    with tempfile.TemporaryDirectory(prefix="mer-bench-", dir=folder) as name, quiet():
        root = Path(name)
        for case in _cases(root, 6 if quick else 32):
            _throughput(results, root, case, rounds=2 if quick else 3)
        _memory(results, root, (50, 500) if quick else (200, 2000, 20_000))
    results.show("Extraction" + (" (quick: sizes too small to judge)" if quick else ""))


def _cases(root: Path, count: int) -> Iterator[Case]:
    """Yield what is measured."""
    import torch
    from transformers import CLIPVisionConfig, HubertConfig

    gpu = torch.cuda.is_available()
    spoken = _spoken(root, count)
    if (whisper := SHARED / "models" / "whisper-tiny-en").is_dir():
        yield Case("whisper", whisper, spoken)
    size = "large" if gpu else "base"
    stable = {"feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
    yield Case(
        f"hubert-{size}", _hubert(root / size, HubertConfig(**(LARGE | stable if gpu else {}))), spoken
    )
    large = LARGE | {"patch_size": 14, "projection_dim": 768}
    if filmed := _filmed(count):
        model = _clip(root / "clip", CLIPVisionConfig(**(large if gpu else {"projection_dim": 512})))
        name = "clip-vit-large" if gpu else "clip-vit-base-patch32"
        yield Case(name, model, filmed, {"face": "none"})


def _spoken(root: Path, count: int) -> list[Clip]:
    """Return clips of mixed lengths: one to four of EmoDB's of one speaker joined, else made ones."""
    wavs = sorted((SHARED / "data" / "emodb" / "wav").glob("*.wav"))
    random, clips = np.random.default_rng(0), []
    print(f"{count} clips, " + ("of EmoDB" if wavs else f"made: no EmoDB in {SHARED}"), flush=True)
    for k in range(count):
        if wavs:
            first, pieces = int(random.integers(len(wavs) - 4)), int(random.integers(1, 5))
            joined = np.concatenate([read_audio(str(path)) for path in wavs[first : first + pieces]])
        else:
            joined = voice(float(random.integers(1, 5)) * 2, 90 + k)
        clips.append(Clip(key=f"k{k:04d}", audio=str(write_wav(root / f"{k}.wav", joined))))
    return clips


def _filmed(count: int) -> list[Clip]:
    """Return clips of the composite with picture; none where it is not there."""
    videos = sorted((SHARED / "data" / "composite" / "videos").glob("cp_*.mp4"))[:count]
    return [Clip(key=path.stem, video=str(path)) for path in videos]


def _hubert(folder: Path, config: Any) -> Path:
    """Write a HuBERT of random weights."""
    import torch
    from transformers import HubertModel, Wav2Vec2FeatureExtractor

    torch.manual_seed(0)
    HubertModel(config).save_pretrained(folder)
    Wav2Vec2FeatureExtractor(do_normalize=config.do_stable_layer_norm).save_pretrained(folder)
    return folder


def _clip(folder: Path, config: Any) -> Path:
    """Write a CLIP vision encoder of random weights."""
    import torch
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    torch.manual_seed(0)
    CLIPVisionModelWithProjection(config).save_pretrained(folder)
    CLIPImageProcessorPil().save_pretrained(folder)
    return folder


def _throughput(results: Results, root: Path, case: Case, rounds: int) -> None:
    """Time the ways; the pipeline's time is without loading, as that of the others is."""
    extractor: Any = make_extractor(find_extractor(case.plugin), case.request().options)
    extractor.load()
    ready = [Prepared(clip, extractor.prepare(clip), None, 0.0) for clip in case.clips]
    batches = list(in_batches(ready, extractor.cost, Limit(extractor.batch_cost)))
    inside: list[float] = []

    def bare() -> None:
        for batch in batches:
            extractor.encode([item.value for item in batch])

    def pipeline() -> None:
        store = case.store(root)
        inside.append(_seconds(extract(store, plan(store, case.request())), case))

    loop = _looks(case, root) if case.clips[0].video else _listens(case, root)
    bare()  # the first run of anything is slower
    ways: dict[str, Way] = {"bare": bare, "pipeline": pipeline, "loop": loop}
    times = compare({name: lambda _, way=way: way() for name, way in ways.items()}, rounds)  # type: ignore[misc]
    ours, seconds = statistics.median(inside), sum(extractor.seconds(item.value) for item in ready)
    results.add("pipeline / bare encoder", case.plugin, times["bare"] / ours, (AT_LEAST, 0.9))
    cpu = extractor.place.type == "cpu"
    results.add(
        "pipeline / one clip at a time", case.plugin, times["loop"] / ours, (AT_LEAST, 1.5 if cpu else 8.0)
    )
    if cpu:
        store = case.store(root)
        two = _seconds(extract_in_processes(store, case.request(), ("cpu", "cpu")), case)
        results.add("pipeline, --procs 2 / one clip at a time", case.plugin, times["loop"] / two)
    results.add("pipeline", case.plugin, len(case.clips) / ours, unit="clips/s")
    results.add("pipeline, realtime", case.plugin, seconds / ours, unit="x")
    extractor.close()


def _seconds(report: ExtractReport, case: Case) -> float:
    """Return how long an extraction ran, without loading weights."""
    assert report.done == len(case.clips), report.failed
    return report.seconds["total"] - report.seconds["load"]


def _listens(case: Case, root: Path) -> Way:
    """Return what baseline scripts do with audio, clip by clip, with transformers alone."""
    import torch
    from transformers import AutoFeatureExtractor, AutoModel

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader, net = AutoFeatureExtractor.from_pretrained(case.model), AutoModel.from_pretrained(case.model)
    net = (net.encoder if case.plugin == "whisper" else net).eval().to(device)
    folder = Path(tempfile.mkdtemp(dir=root))

    def features(sound: Any) -> Any:
        inputs = reader(sound, sampling_rate=16_000, return_tensors="pt").to(device)
        states = net(**inputs, output_hidden_states=True).hidden_states
        return torch.stack(states)[-4:].sum(dim=0)[0].mean(dim=0).cpu().numpy()

    def loop() -> None:
        with torch.no_grad():
            for clip in case.clips:
                np.save(folder / f"{clip.key}.npy", features(read_audio(str(clip.audio))))

    return loop


def _looks(case: Case, root: Path) -> Way:
    """Return what baseline scripts do with frames, clip by clip, with transformers alone."""
    import torch
    from PIL import Image
    from transformers import CLIPImageProcessorPil, CLIPVisionModelWithProjection

    device = "cuda" if torch.cuda.is_available() else "cpu"
    reader = CLIPImageProcessorPil.from_pretrained(case.model)
    net = CLIPVisionModelWithProjection.from_pretrained(case.model).eval().to(device)
    folder = Path(tempfile.mkdtemp(dir=root))

    def loop() -> None:
        with torch.no_grad():
            for clip in case.clips:
                frames = [Image.fromarray(seen.rgb) for seen in iter_frames(str(clip.video), fps=5)]
                inputs = reader(frames, return_tensors="pt").to(device)
                rows = net(**inputs).image_embeds
                np.save(folder / f"{clip.key}.npy", rows.mean(dim=0).cpu().numpy())

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
