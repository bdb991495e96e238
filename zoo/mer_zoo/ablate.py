"""The ablations of the audio-guided paper: guidance, gate, encoder, pseudo-labels, and the vote."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_zoo.errors import ZooError
from mer_zoo.experiments import Course, Exam, Experiment, decisions, keep, measure, set_exam, trained
from mer_zoo.members import collect
from mer_zoo.registry import find_model
from mer_zoo.runs import Run
from mer_zoo.spaces import choose
from mer_zoo.topn import modality_of
from mer_zoo.votes import expert_weights, majority, weight_matrix, weighted

if TYPE_CHECKING:
    from mer_featurestore import Store

VARIANTS: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "agt": ("agt", {}),
    "equal": ("agt", {"guide": "none"}),
    "no-cbt": ("agt", {"cbt": False}),
    "no-amf": ("agt", {"amf": False}),
    "attention": ("attention", {}),
}
TOLD = {
    "agt": "audio-guided",
    "equal": "equal modalities (guide none)",
    "no-cbt": "without CBT",
    "no-amf": "without AMF",
    "attention": "attention (the baseline)",
}


def ablate(
    store: "Store",
    course: Course,
    *,
    pseudo: str | None = None,
    encoder_swap: Sequence[str] = (),
    expert_classes: Sequence[str] | None = None,
    expert_weight: float = 2.0,
) -> Experiment:
    """Train AGT and what is left of it, on the same features and folds, and judge all on the same clips.

    The vote is one of AGT and a probe (`mlp`) on each space: by majority, and with the first space's probe
    (audio, where there is one) as the expert for some classes.

    Args:
        store: The store.
        course: How runs are trained and judged.
        pseudo: A layer with pseudo-labels; adds AGT trained on it.
        encoder_swap: Spaces, each put in the place of the one of its modality.
        expert_classes: None takes the two rarest among the labels that train.
        expert_weight: How much the expert's vote counts for these.

    Raises:
        UnknownName: No such space, layer, split or class.
        ZooError: A swap changes nothing, a weight is negative, or a run was trained otherwise.
    """
    exam = set_exam(store, course)
    chosen = choose(store, find_model("agt"), course.features).chosen
    spaces = {name: str(c) for name, c in chosen.items()}
    # What was typed wrong is told now, and not when hours of training are over.
    swaps = {space: _swapped(store, spaces, space) for space in encoder_swap}
    classes = expert_classes or rarest(store, exam.labels)
    weight_matrix(["expert"], exam.classes, expert_weights(["expert"], classes, expert_weight))
    if pseudo:
        store.labels.resolve(pseudo)
    made = {
        TOLD[line]: trained(store, course, line, model, labels=exam.labels, params=params)
        for line, (model, params) in VARIANTS.items()
    }
    if pseudo:
        made[f"audio-guided, on {pseudo}"] = trained(store, course, f"agt-{pseudo}", "agt", labels=pseudo)
    for space, features in swaps.items():
        line = f"agt-with-{space.replace(':', '.')}"
        made[f"audio-guided, with {space}"] = trained(
            store, course, line, "agt", labels=exam.labels, features=features
        )
    said = {name: decisions(store, course, exam, runs) for name, runs in made.items()}
    probes = [
        trained(store, course, f"mlp-{space.replace(':', '.')}", "mlp", labels=exam.labels, features=[space])
        for space in spaces.values()
    ]
    voted = _voted(store, course, exam, [*probes, made[TOLD["agt"]]], classes, expert_weight)
    said |= voted
    used = [run for runs in (*made.values(), *probes) for run in runs]
    lines = measure(exam.label, said, len(exam.classes))
    return keep(
        store, "ablation", f"{course.judge} ({exam.truth})", lines, command=course.command,
        parents=[f"labels/{exam.labels}", f"labels/{exam.truth}", *(f"runs/{run.name}" for run in used)],
        facts={"spaces": spaces, "expert_classes": list(classes), "expert_weight": expert_weight},
        notices=[_against_majority(exam, voted)],
    )  # fmt: skip


def rarest(store: "Store", layer: str, count: int = 2) -> tuple[str, ...]:
    """Return the classes with fewest labels in a layer, the rarest first."""
    counts = store.labels.resolve(layer).counts()
    return tuple(sorted(counts, key=lambda name: (counts[name], name))[:count])


def _against_majority(exam: Exam, voted: Mapping[str, NDArray[np.int64]]) -> str:
    """Say what weights are worth: the table's differences are from its first line, not between the votes."""
    _, line = measure(exam.label, voted, len(exam.classes))
    low, high = line.gain_interval
    return f"{line.name} above majority vote: WAF {line.gain:+.4f} ({low:+.4f} to {high:+.4f})"


def _swapped(store: "Store", spaces: Mapping[str, str], space: str) -> list[str]:
    """Return the spaces with one in the place of the one of its modality."""
    (modality,) = choose(store, find_model("mlp"), [space]).chosen
    if spaces.get(modality_of(modality)) == space:
        raise ZooError(f"{space} is what reads {modality} already", "swap another space in")
    return list({**spaces, modality: space}.values())


def _voted(
    store: "Store",
    course: Course,
    exam: Exam,
    members: Sequence[Sequence[Run]],
    classes: Sequence[str],
    weight: float,
) -> dict[str, NDArray[np.int64]]:
    """Return decisions `[S, n]` of the members' votes, seed by seed."""
    plain, expert = [], []
    for seed in range(course.seeds):
        runs = [runs[seed] for runs in members]
        ballot, _ = collect(store, runs, exam.keys, exam.classes, device=course.device)
        plain.append(majority(ballot).label.astype(np.int64))
        weights = expert_weights([runs[0].name], classes, weight)
        expert.append(weighted(ballot, weights=weights).label.astype(np.int64))
    named = f"weighted vote ({', '.join(classes)} {weight:g} times)"
    return {"majority vote": np.stack(plain), named: np.stack(expert)}
