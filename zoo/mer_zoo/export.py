"""Writing a run into a folder for others: weights, configuration, and a model card."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mer_zoo.errors import ZooError
from mer_zoo.exported import CONFIG, FORMAT
from mer_zoo.runs import Run, dump, find_run, list_evaluations, weights_file

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

CARD = "README.md"


def export_run(store: "Store", run: Run | str, folder: Path | str) -> list[Path]:
    """Write a run's weights (safetensors), configuration and model card.

    Neither features nor labels nor the names of clips are written.

    Args:
        store: The store.
        run: A run, or its name.
        folder: Where to; made if need be, and must be empty.

    Returns:
        The files.

    Raises:
        UnknownName: There is no such run.
        ZooError: There is something in the folder already.
    """
    run = find_run(store, run) if isinstance(run, str) else run
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ZooError(f"there is something at {folder} already", "give an empty or a new folder: --to DIR")
    folder.mkdir(parents=True, exist_ok=True)
    files = {weights_file(k): run.bundle.read(weights_file(k)) for k in range(run.config.fold_count)}
    files[CONFIG] = dump(_config(run))
    files[CARD] = model_card(store, run).encode()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return [folder / name for name in files]


def _config(run: Run) -> dict[str, Any]:
    config = run.config
    return {
        "format": FORMAT,
        "name": run.name,
        "model": config.model,
        "params": dict(config.params),
        "inputs": config.inputs.to_json(),
        "classes": list(config.classes),
        "standardise": config.standardise,
        "folds": config.fold_count,
        "settings": config.settings.to_json(),
        "seed": config.seed,
        "versions": dict(config.versions),
    }


def model_card(store: "Store", run: Run) -> str:
    """Return the model card of a run, Markdown with the head that model hubs read."""
    parts = [
        _head(run),
        _use(run),
        _inputs(store, run),
        _training(run),
        _scores(run),
        _evaluations(store, run),
    ]
    return "\n".join(part for part in parts if part)


def _head(run: Run) -> str:
    return f"""---
library_name: mer-fs
tags:
- emotion-recognition
- multimodal
- {run.config.model}
metrics:
- f1
- accuracy
---

# {run.name}

`{run.config.model}`, trained with mer-fs on {" + ".join(run.config.inputs.chosen)} features, recognises one
of {len(run.config.classes)} emotions per clip: {", ".join(run.config.classes)}. It is the mean of
{run.config.fold_count} models, one per fold.
"""


def _use(run: Run) -> str:
    arrays = ",\n    ".join(
        f'"{name}": [rng.normal(size=({"20, " if c.level == "frame" else "1, "}{c.width}))]'
        for name, c in run.config.inputs.chosen.items()
    )
    return f"""## Use

`pip install mer-fs`; then, in this folder:

```python
import numpy as np

from mer_zoo.exported import load

model = load(".")
rng = np.random.default_rng(0)  # in place of features as the extractors below give them
clips = {{
    {arrays},
}}
probs = model.predict(clips)  # float32 [clips, classes]; None in place of an array: the clip lacks it
print({{name: round(float(p), 3) for name, p in zip(model.classes, probs[0], strict=True)}})
```
"""


def _inputs(store: "Store", run: Run) -> str:
    rows = []
    for name, chosen in run.config.inputs.chosen.items():
        made_by: Mapping[str, Any] = {}
        if chosen.space in store.features and store.features[chosen.space].fingerprint == chosen.fingerprint:
            made_by = store.features[chosen.space].spec.made_by
        told = ", ".join(f"{key} {value}" for key, value in made_by.items() if isinstance(value, (str, int)))
        rows.append(
            (
                name,
                str(chosen),
                chosen.level,
                chosen.width,
                f"`{chosen.fingerprint[:16]}`",
                told or "not known",
            )
        )
    columns = ("input", "space", "level", "width", "fingerprint", "made by")
    return "## Inputs\n\n" + _table(columns, rows)


def _training(run: Run) -> str:
    config = run.config
    support = ", ".join(f"{name} {run.scores.per_class[name].support}" for name in config.classes)
    settings = ", ".join(f"{name} {value}" for name, value in config.settings.to_json().items())
    params = ", ".join(f"{name} {value}" for name, value in config.params.items()) or "none"
    pseudo = f" and {len(config.pseudo)} pseudo-labelled ones" if config.pseudo else ""
    return f"""## Training

{len(config.folds)} clips labelled by people{pseudo} (layer `{config.labels}`): {support}. {config.fold_count}
folds, grouped by {config.grouped_by}, seed {config.seed}.

- parameters: {params}
- settings: {settings}
- versions: {", ".join(f"{name} {version}" for name, version in config.versions.items())}
"""


def _scores(run: Run) -> str:
    scores, intervals = run.scores, run.scores.intervals
    rows = [
        (told, f"{getattr(scores, name):.4f}", f"{intervals[name].low:.4f} to {intervals[name].high:.4f}")
        for name, told in (("waf", "WAF"), ("uar", "UAR"), ("accuracy", "accuracy"), ("macro_f1", "macro-F1"))
    ]
    classes = [
        (name, f"{c.precision:.3f}", f"{c.recall:.3f}", f"{c.f1:.3f}", c.support)
        for name, c in scores.per_class.items()
    ]
    return (
        "## Scores\n\nOut of fold, on the training clips; each fold was stopped by its own validation clips, "
        f"so these are slightly too good. Calibration error {scores.ece:.3f}.\n\n"
        + _table(("score", "value", "95 % interval over clips"), rows)
        + "\n"
        + _table(("class", "precision", "recall", "F1", "clips"), classes)
    )


def _evaluations(store: "Store", run: Run) -> str:
    found: list[Bundle] = list_evaluations(store, run.name)
    if not found:
        return ""
    rows = [
        (b.attrs["split"], b.attrs["labels"], b.attrs["n"], f"{b.attrs['waf']:.4f}", f"{b.attrs['uar']:.4f}")
        for b in found
    ]
    told = (
        f"Every scoring of this run on other clips is on record; there {'were' if len(found) > 1 else 'was'} "
    )
    return f"## Evaluations\n\n{told}{len(found)}.\n\n" + _table(
        ("split", "labels", "clips", "WAF", "UAR"), rows
    )


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "".join(
        "| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |\n" for line in lines
    )
