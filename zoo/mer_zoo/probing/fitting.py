"""Training all probes at once: one stack of layers x folds x seeds, and one of mixes x folds x seeds."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mer_zoo.data import Features, Table
from mer_zoo.devices import find_device
from mer_zoo.models.mlp import Probe
from mer_zoo.prepared import Prepared
from mer_zoo.probing.data import Course, ProbeData
from mer_zoo.probing.mix import INPUT, LayerMix, layer_statistics, share_of
from mer_zoo.stacked import MOST, Stack
from mer_zoo.training import Member, Targets, Task, check_finite

Told = Callable[[int, int], None]
Job = Mapping[str, int]
_WEIGHTS = 2**26  # parameters of one stack at most: 256 MB, and Adam keeps two more of each
_DROPOUT = 0.3  # of a probe with a hidden layer, as the model `mlp` has it


@dataclass(frozen=True, slots=True)
class LayeredFeatures(Features):
    """All layers of n clips, of which member m of a stack reads layer `layer[m]` alone.

    Attributes:
        layer: int64 `[M]`, a place on the layer axis.
        count: Layers of a clip, L; row `i * L + l` of the table is layer l of clip i.
    """

    layer: Tensor
    count: int

    def batch(self, index: Tensor) -> Any:
        """Return clips `index` `[M, B]`, each of its member's layer."""
        return Features.batch(self, index * self.count + self.layer.unsqueeze(-1))


@dataclass(frozen=True, slots=True)
class ProbeTask(Task):
    """A task whose `build` brings the standardisation along, since layers and folds each have their own."""

    def module(self, member: Member) -> Prepared:
        """Build a member's probe."""
        module = self.build(member.params)
        if not isinstance(module, Prepared):
            raise TypeError("the build of a probe makes a Prepared module")
        return module


@dataclass(frozen=True, slots=True)
class Mixed:
    """What the mixes of all folds and seeds came to.

    Attributes:
        logits: float32 `[S, n, C]`, out of fold.
        share: float64 `[L]`, the layers' weights in units of their spread, averaged; they sum to one.
        raw: float64 `[L]`, the same weights for the layers as they are, not divided by their spread; they
            sum to one, too.
    """

    logits: NDArray[np.float32]
    share: NDArray[np.float64]
    raw: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class _Part:
    """One fold of one seed."""

    seed: int
    train: Tensor
    valid: Tensor
    start: int  # what its members' random numbers start from


def fit_layers(data: ProbeData, course: Course, told: Told | None = None) -> NDArray[np.float32]:
    """Train a probe per layer, fold and seed; return out-of-fold logits float32 `[L, S, n, C]`.

    Every probe has the same initial weights and order of clips on all layers, and is trained for all epochs:
    stopping by the held-out clips would flatter some layers more than others.

    Args:
        data: What they learn from.
        course: How.
        told: Called with epochs done and in all.

    Raises:
        Diverged: A loss became infinite or NaN.
    """
    device = find_device(course.device)
    rows, parts = data.rows.to(device), _parts(data, course)
    _, count, width = rows.shape
    statistics = [_standard(rows[part.train.to(device)]) for part in parts]
    jobs = [{"layer": layer, "part": p} for layer in range(count) for p in range(len(parts))]
    found = np.empty((count, *data.fold.shape, len(data.chosen.classes)), np.float32)
    targets = _targets(data).to(device)

    def build(params: Any) -> nn.Module:
        mean, scale = statistics[params["part"]]
        layer = params["layer"]
        own = {INPUT: (mean[layer].clone(), scale[layer].clone())}  # a module owns its buffers
        return Prepared(_probe(width, data, course), own).to(device)

    table = _table(rows.view(-1, width))

    def task(chunk: Sequence[Job]) -> ProbeTask:
        layer = torch.tensor([job["layer"] for job in chunk], device=device)
        return ProbeTask(LayeredFeatures(data.chosen.keys, {INPUT: table}, layer, count), targets, build)

    size = _size(_probe(width, data, course))
    for chunk, stack in _stacks(jobs, size, task, parts, course, told):
        for job, logits in zip(chunk, stack.validation_logits(), strict=True):
            part = parts[job["part"]]
            found[job["layer"], part.seed, part.valid.numpy()] = logits.cpu().numpy()
    return found


def fit_mix(data: ProbeData, course: Course, told: Told | None = None) -> Mixed:
    """Train a mix of the layers with its probe for every fold and seed.

    Args:
        data: What they learn from.
        course: How.
        told: Called with epochs done and in all.

    Raises:
        Diverged: A loss became infinite or NaN.
    """
    device = find_device(course.device)
    rows, parts = data.rows.to(device), _parts(data, course)
    _, count, width = rows.shape
    statistics = [layer_statistics(rows[part.train.to(device)]) for part in parts]
    features = Features(data.chosen.keys, {INPUT: _table(rows.view(len(rows), -1))})
    found = np.empty((*data.fold.shape, len(data.chosen.classes)), np.float32)
    shares, targets = [], _targets(data).to(device)

    def build(params: Any) -> nn.Module:
        own = {name: value.clone() for name, value in statistics[params["part"]].items()}
        return Prepared(LayerMix(own, _probe(width, data, course)), {}).to(device)

    jobs = [{"part": p} for p in range(len(parts))]
    task, size = ProbeTask(features, targets, build), width * count**2 + _size(_probe(width, data, course))
    for chunk, stack in _stacks(jobs, size, lambda _: task, parts, course, told):
        for job, logits in zip(chunk, stack.validation_logits(), strict=True):
            part = parts[job["part"]]
            found[part.seed, part.valid.numpy()] = logits.cpu().numpy()
        scores = torch.stack([stack.state(row)["model.score"] for row in range(len(chunk))])
        shares.append(share_of(scores).double())
    share = torch.cat(shares).mean(0)
    raw = share / torch.stack([part["spread"].double().cpu() for part in statistics]).mean(0)
    return Mixed(found, share.numpy(), (raw / raw.sum()).numpy())


def _parts(data: ProbeData, course: Course) -> list[_Part]:
    found = []
    for seed, fold in enumerate(data.fold[: course.seeds]):
        count = int(fold.max()) + 1
        starts = np.random.SeedSequence(seed).generate_state(count, np.uint32)
        found += [
            _Part(
                seed,
                torch.from_numpy(np.flatnonzero(fold != k)),
                torch.from_numpy(np.flatnonzero(fold == k)),
                int(starts[k]),
            )
            for k in range(count)
        ]
    return found


def _member(part: _Part, course: Course, params: Job) -> Member:
    return Member(
        name=" ".join(["the probe of", *(f"{name} {value}" for name, value in params.items())]),
        train=part.train, valid=part.valid, seed=part.start, params=params,
        settings=course.training(len(part.train) + len(part.valid)),
    )  # fmt: skip


def _probe(width: int, data: ProbeData, course: Course) -> Probe:
    inputs, classes = {INPUT: width}, len(data.chosen.classes)
    if course.hidden:
        return Probe(inputs, classes, hidden=course.hidden, layers=1, dropout=_DROPOUT)
    return Probe(inputs, classes, layers=0, dropout=0.0)


def _size(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _targets(data: ProbeData) -> Targets:
    probs = torch.from_numpy(np.eye(len(data.chosen.classes), dtype=np.float32)[data.chosen.label])
    return Targets(probs, torch.ones(len(probs)))


def _table(rows: Tensor) -> Table:
    there = len(rows) - 1
    start = torch.arange(there, device=rows.device)
    return Table(rows, start, torch.ones_like(start))


def _standard(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and 1 / standard deviation `[L, D]` of rows `[n, L, D]`; 1 where nothing varies."""
    deviation, mean = torch.std_mean(rows, 0, correction=0)
    return mean, torch.where(deviation > 1e-6, 1 / deviation.clamp(min=1e-6), 1.0)


def _stacks(
    jobs: Sequence[Job],
    weights: int,
    task: Callable[[Sequence[Job]], ProbeTask],
    parts: Sequence[_Part],
    course: Course,
    told: Told | None,
) -> Iterator[tuple[Sequence[Job], Stack]]:
    """Train jobs in stacks that fit into memory, which changes nothing; yield each with its jobs.

    Args:
        jobs: What each member is, by name; `part` is a number in `parts`.
        weights: Of one member, about.
        task: Makes the task of some of them.
        parts: Folds of seeds.
        course: How they are trained.
        told: Called with epochs done and in all.
    """
    size = max(1, min(MOST, _WEIGHTS // weights))
    chunks = [jobs[first : first + size] for first in range(0, len(jobs), size)]
    for c, chunk in enumerate(chunks):
        members = [_member(parts[job["part"]], course, job) for job in chunk]
        yield chunk, _train(task(chunk), members, _progress(told, c, len(chunks)))


def _train(task: Task, members: Sequence[Member], told: Told) -> Stack:
    stack, epochs = Stack(task, members), members[0].settings.epochs
    for epoch in range(1, epochs + 1):
        for member, loss in zip(members, stack.train_epoch(), strict=True):
            check_finite(loss, member, epoch)
        told(epoch, epochs)
    return stack


def _progress(told: Told | None, chunk: int, chunks: int) -> Told:
    def tell(done: int, total: int) -> None:
        if told is not None:
            told(chunk * total + done, chunks * total)

    return tell
