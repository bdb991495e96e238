"""Projections fitted to the rows of a space: principal components and standardisation, kept as adapters.

What was fitted is an adapter `adapters/NAME` with `projection.safetensors`, as alignment makes them, so that
clips that come later are projected alike, from stored rows (`mer-fs derive`) or on extraction
(`--adapter NAME`). No labels are used, and no clips of the split `test` unless they are asked for.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import NameTaken
from mer_featurestore.records import LEVEL_SUFFIX
from mer_plugins.adapter_files import CARD, PROJECTION
from mer_plugins.adapters import keep
from mer_plugins.deriving import find_source, pieces, project
from mer_plugins.errors import PluginError
from mer_plugins.operations import Project, meaning
from mer_plugins.plan import stem_of
from mer_plugins.projection import Projection

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.records import SpaceSpec
    from mer_featurestore.spaces import FeatureSpace

DEFAULT_SPLITS = ("train", "unlabeled")
IN_MEMORY = 1 << 30  # bytes of float64 rows; more are fitted out of core
_FLAT = 1e-9  # share of the largest variance below which a direction does not vary


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """What to fit.

    Attributes:
        method: `pca` or `standardise`.
        components: Of `pca`.
        whiten: Whether each component is scaled to unit variance.
        splits: Fitted on clips of these; none takes those of `train` and `unlabeled` that there are.
    """

    method: str
    components: int = 0
    whiten: bool = False
    splits: tuple[str, ...] = ()


def fitted(
    store: "Store", source: str, name: str, fit: Fit, *, command: str = "", message: str = ""
) -> Project:
    """Fit a projection to a space and keep it as an adapter, or take the one that is there.

    Args:
        store: The store.
        source: The space.
        name: Of the adapter; `-UTT` and `-FRA` are taken off.
        fit: What to fit.
        command: For the journal.
        message: For the journal.

    Raises:
        UnknownName: No such space or split.
        NameTaken: There is a space of that name, made otherwise.
        PluginError: Too few rows or directions, a layer axis, no clips; or an adapter of that name that is
            something else.
    """
    space, stem = find_source(store, source), stem_of(name)
    splits = fit.splits or tuple(s for s in DEFAULT_SPLITS if any(c.split == s for c in store.clips.values()))
    wanted = asdict(fit) | {"splits": list(splits), "space": source, "fingerprint": space.fingerprint}
    if stem in store.adapters:
        _check_same(store, stem, wanted)
        return project(store, stem)
    if (taken := f"{stem}-{LEVEL_SUFFIX[space.spec.level]}") in store.features:
        raise NameTaken(f"there is a space {taken!r}, and no adapter {stem!r} made it", "choose another --as")
    if len(space.spec.row_shape) != 1:
        raise PluginError(f"{source} has a layer axis", "choose layers first: mer-fs derive --layers")
    keys = _keys(store, space, splits)
    projection, facts = _METHODS[fit.method](space, keys, fit)
    facts |= wanted | {"clips": len(keys)}
    keep_projection(
        store, stem, projection, space.spec, facts={"fitted": facts}, command=command, message=message
    )
    return project(store, stem)


def keep_projection(
    store: "Store",
    name: str,
    projection: Projection,
    rows: "SpaceSpec",
    *,
    facts: Mapping[str, Any],
    command: str = "",
    message: str = "",
    **more: Any,
) -> None:
    """Keep a projection of a space's rows in the store as an adapter.

    Its card says under `rows` which rows it takes: `space`, `fingerprint`, and `made_by`, what decides what
    they mean.

    Args:
        store: The store.
        name: Of the adapter.
        projection: What it does.
        rows: Specification of the space that it was made for, which becomes a parent.
        facts: For the card.
        command: For the journal.
        message: For the journal.
        **more: Further arguments of `mer_plugins.adapters.keep`.

    Raises:
        NameTaken: There is an adapter of that name.
    """
    takes = {"space": rows.name, "fingerprint": rows.fingerprint, "made_by": meaning(rows)}
    card = {"base": rows.made_by.get("checkpoint") or {"model": ""}, "rows": takes, **facts}
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        projection.save(folder / PROJECTION)
        (folder / CARD).write_text(json.dumps(card), encoding="utf-8")
        parents = (f"features/{rows.name}", *more.pop("parents", ()))
        keep(store, name, folder, parents=parents, command=command, message=message, **more)


def _check_same(store: "Store", name: str, wanted: dict[str, Any]) -> None:
    card = store.adapters[name].json(CARD)
    has = card.get("fitted") or {"method": card.get("type", "another")}
    other = {f: (has.get(f), value) for f, value in wanted.items() if has.get(f) != value}
    if other:
        told = ", ".join(f"{field} {here!r}, asked for {asked!r}" for field, (here, asked) in other.items())
        raise PluginError(f"adapter {name} is there and was made otherwise: {told}", "choose another --as")


def _keys(store: "Store", space: "FeatureSpace", splits: Sequence[str]) -> list[str]:
    clips = store.clips.select(split=splits) if splits else []
    keys = [clip.key for clip in clips if clip.key in space]
    if not keys:
        known = sorted({clip.split or "(none)" for clip in store.clips.values()})
        raise PluginError(
            f"{space.name} has no clips of {' or '.join(splits or DEFAULT_SPLITS)} to fit on",
            f"say --fit-on; the catalogue has: {', '.join(known) or 'no clips'}",
        )
    return keys


def _blocks(space: "FeatureSpace", keys: list[str], least: int = 1) -> Iterator[NDArray[np.float64]]:
    """Yield all rows `[n, D]` in float64, in blocks of at least so many where there are as many."""
    waiting: list[NDArray[np.float64]] = []
    count, held = 0, np.empty((0, *space.spec.row_shape))
    for _, packed in pieces(space, keys):
        waiting.append(packed.data.astype(np.float64))
        count += len(packed.data)
        if count >= least:  # the block before is held back, so that a short last one can join it
            if len(held):
                yield held
            held, waiting, count = np.concatenate(waiting), [], 0
    yield np.concatenate([held, *waiting])


def _pca(space: "FeatureSpace", keys: list[str], fit: Fit) -> tuple[Projection, dict[str, Any]]:
    width, rows, n = space.spec.row_shape[0], int(space.lengths(keys).sum()), fit.components
    if not 1 <= n <= min(width, rows):
        raise PluginError(
            f"{n} components of {rows} rows of {width}", f"ask for 1 to {min(width, rows)}: --pca N"
        )
    found = _in_memory(space, keys, n) if rows * width * 8 <= IN_MEMORY else _out_of_core(space, keys, n)
    variance = found.explained_variance_
    if not variance[-1] > _FLAT * variance[0]:
        varying = int((variance > _FLAT * variance[0]).sum())
        raise PluginError(f"the rows of {space.name} vary in {varying} directions only", f"--pca {varying}")
    scale = 1 / np.sqrt(variance) if fit.whiten else np.ones(n)
    weight = found.components_ * scale[:, None]
    ratio = float(found.explained_variance_ratio_.sum())
    projection = Projection(weight.astype(np.float32), (-weight @ found.mean_).astype(np.float32))
    solver = type(found).__name__
    return projection, {"rows": rows, "explained_variance_ratio": ratio, "solver": solver}


def _in_memory(space: "FeatureSpace", keys: list[str], n: int) -> Any:
    from sklearn.decomposition import PCA

    rows = np.concatenate(list(_blocks(space, keys)))
    # Both solvers are exact; the one on the covariance matrix is quicker where rows are many.
    solver = "covariance_eigh" if len(rows) >= rows.shape[1] else "full"
    return PCA(n, svd_solver=solver).fit(rows)


def _out_of_core(space: "FeatureSpace", keys: list[str], n: int) -> Any:
    from sklearn.decomposition import IncrementalPCA

    found = IncrementalPCA(n)
    for block in _blocks(space, keys, least=max(n, 2 * space.spec.row_shape[0])):
        found.partial_fit(block)
    return found


def _standardise(space: "FeatureSpace", keys: list[str], fit: Fit) -> tuple[Projection, dict[str, Any]]:  # noqa: ARG001 - as `_pca`
    mean, std, rows = statistics(space, keys)
    scale = 1 / np.where(std > 0, std, 1.0)  # what never varies is only centred
    weight = np.diag(scale).astype(np.float32)
    return Projection(weight, (-mean * scale).astype(np.float32)), {"rows": rows}


def statistics(
    space: "FeatureSpace", keys: list[str]
) -> tuple[NDArray[np.float64], NDArray[np.float64], int]:
    """Return mean and standard deviation `[D]` (n) of the rows of clips, and their number, in one pass."""
    mean, spread = np.zeros(space.spec.row_shape), np.zeros(space.spec.row_shape)
    count = 0
    for block in _blocks(space, keys):
        if not len(block):
            continue
        total = count + len(block)
        away = block.mean(axis=0) - mean
        # Chan et al. 1979: sums of squares of two parts joined without losing digits.
        spread += block.var(axis=0) * len(block) + away**2 * (count * len(block) / total)
        mean += away * (len(block) / total)
        count = total
    return mean, np.sqrt(spread / max(1, count)), count


_METHODS = {"pca": _pca, "standardise": _standardise}
