"""Brings features from outside into a store, with a record of where they came from."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, BadName, UnknownName
from mer_featurestore.interchange.mertools import from_mertools, level_of
from mer_featurestore.interchange.mmsa import MEMBERS, MmsaFile, read_mmsa
from mer_featurestore.interchange.sources import Source, fit, from_npy, from_npz, read_keys
from mer_featurestore.label_layer import LabelLayer
from mer_featurestore.label_sheets import imported_from
from mer_featurestore.names import check_key
from mer_featurestore.records import LEVEL_SUFFIX, Clip, Level, Modality, Progress, SpaceSpec

if TYPE_CHECKING:
    from mer_featurestore.store import Store
    from mer_featurestore.writer import FeatureWriter

FORMATS = ("mertools", "npy", "npz", "hdf5", "parquet", "mmsa")
Dtype = Literal["float16", "float32"]
NonFinite = Literal["quarantine", "zero"]


@dataclass(frozen=True)
class ImportReport:
    """What an import did.

    Attributes:
        space: The feature space.
        added: Clips that are new in it.
        present: Clips it had already.
        left_out: Clips that are not in the catalogue (with `ignore_unknown`).
        quarantined: Clip -> why it could not be taken.
    """

    space: str
    added: int
    present: int
    left_out: int
    quarantined: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ImportOptions:
    """How to import.

    Attributes:
        dtype: Stored type; None keeps float16 and makes float32 of everything else.
        non_finite: What to do with clips that have NaN or infinite values: leave them out with a reason, or
            set those values to zero (recorded in the fingerprint).
        create_clips: Add clips the catalogue does not have.
        ignore_unknown: Leave clips out that the catalogue does not have. Without either they are an error.
        corpus: Corpus of clips that are created.
        command: For the log.
    """

    dtype: Dtype | None = None
    non_finite: NonFinite = "quarantine"
    create_clips: bool = False
    ignore_unknown: bool = False
    corpus: str = ""
    command: str = ""


def open_source(
    form: str,
    path: Path,
    *,
    keys: Path | None = None,
    member: str | None = None,
    level: Level | None = None,
    progress: Progress | None = None,
) -> Source:
    """Open features in any format but `mmsa`, which holds several at once (`read_mmsa`).

    Args:
        form: One of `FORMATS`.
        path: File or folder.
        keys: For `npy`: a text file with one key per row of the matrix.
        member: For `hdf5` and `parquet`: which dataset or column to take.
        level: `utt` or `frame`; None to tell by the name or the arrays.
        progress: Called while files are hashed.

    Raises:
        UnknownName: No such format.
        BadInput: It cannot be read, or lacks what it must have.
    """
    from mer_featurestore.interchange.hdf5 import from_hdf5
    from mer_featurestore.interchange.parquet import from_parquet

    path = Path(path)
    if form == "mertools":
        return from_mertools(path, level=level, progress=progress)
    if form == "npy":
        if keys is None:
            raise BadInput(
                f"{path} does not say which row is which clip", "pass --keys FILE, one key per line"
            )
        return from_npy(path, read_keys(keys), level=level)
    if form == "npz":
        return from_npz(path, level=level)
    if form == "hdf5":
        return from_hdf5(path, member=member, level=level)
    if form == "parquet":
        return from_parquet(path, member=member, level=level)
    raise UnknownName("format to import", form, FORMATS)


def import_space(
    store: "Store",
    source: Source,
    name: str,
    modality: Modality,
    options: ImportOptions | None = None,
    *,
    progress: Progress | None = None,
) -> ImportReport:
    """Import features into a space. Doing it again adds only what is missing.

    Args:
        store: Where to.
        source: As `open_source` gives it.
        name: Of the space; `-UTT` or `-FRA` is put behind it unless it ends so.
        modality: What the features were made from.
        options: See `ImportOptions`.
        progress: Called with (clips done, clips in all).

    Raises:
        BadInput: Clips the catalogue does not have.
        BadName: A key or the name cannot be stored.
        FingerprintMismatch: There is a space of that name from elsewhere.
    """
    options = options or ImportOptions()
    spec = _spec(source, name, modality, options)
    for key in source.keys:
        _check_key(source, key)
    writer = store.features.writer(spec, command=options.command)  # refuses the name before anything is added
    keys = _known_keys(store, source, options)
    there = spec.name in store.features
    present = set(keys) - set(store.features[spec.name].missing(keys)) if there else set()
    with writer:
        wanted = frozenset(keys) - present
        noted = store.features.quarantine(spec.name)
        quarantined = _fill(writer, source, spec, wanted, options, progress)
        for key, reason in quarantined.items():
            if noted.get(key) != reason:  # the same again is no news for the journal
                writer.quarantine(key, reason)
    return ImportReport(
        spec.name, len(wanted) - len(quarantined), len(present), len(source.keys) - len(keys), quarantined
    )


def import_mmsa(
    store: "Store",
    path: Path,
    name: str,
    options: ImportOptions | None = None,
    *,
    labels_as: str | None = None,
    progress: Progress | None = None,
) -> list[ImportReport]:
    """Import an MMSA or MMSA-FET pickle: a space per modality, clips and labels when asked for.

    Args:
        store: Where to.
        path: The .pkl.
        name: Stem of the spaces: `NAME-audio-FRA`, `NAME-vision-FRA`, `NAME-text-FRA`.
        options: See `ImportOptions`; clips that are created get split, transcript and group from the file.
        labels_as: Name of a layer for the file's annotations; None leaves them out.
        progress: Called with (clips done, clips in all), for each space anew.

    Raises:
        BadInput: The file is not readable, would execute code, or has clips the catalogue does not have.
        NameTaken: There is a layer of that name.
    """
    options = options or ImportOptions()
    file = read_mmsa(path, corpus=options.corpus)
    layer = _mmsa_layer(file, labels_as, path)
    if layer is not None and store.labels.holds(store.snapshot, layer):
        layer = None
    if options.create_clips:
        missing = [clip for clip in file.clips if clip.key not in store.clips]
        store.clips.add(missing, command=options.command)
    reports = [
        import_space(store, source, f"{name}-{member}", MEMBERS[member], options, progress=progress)
        for member, source in file.sources.items()
    ]
    if layer is not None:
        store.labels.add(layer.take(k for k in layer.keys if k in store.clips), command=options.command)
    return reports


def _mmsa_layer(file: MmsaFile, labels_as: str | None, path: Path) -> LabelLayer | None:
    if labels_as is None:
        return None
    if not file.labels:
        raise BadInput(f"{path} has no annotations", "leave --labels-as out")
    return LabelLayer.human(labels_as, None, file.labels, attrs=imported_from(path))


def _check_key(source: Source, key: str) -> None:
    try:
        check_key(key)
    except BadName as error:
        raise BadName(f"{source.path}: {error.message}", error.remedy) from None


def _spec(source: Source, name: str, modality: Modality, options: ImportOptions) -> SpaceSpec:
    suffix = f"-{LEVEL_SUFFIX[source.level]}"
    said = level_of(name)
    if said is not None and said != source.level:
        raise BadInput(
            f"{source.path} holds {source.level}-level features and the name {name!r} says {said}",
            f"name it otherwise, or pass --level {said}",
        )
    made_by = source.made_by()
    if options.non_finite == "zero":
        made_by["imported"]["non_finite"] = "zero"
    dtype: Dtype = options.dtype or ("float16" if source.dtype == np.float16 else "float32")
    return SpaceSpec(
        name=name if said else name + suffix,
        modality=modality,
        level=source.level,
        row_shape=tuple(int(n) for n in source.row_shape),
        dtype=dtype,
        made_by=made_by,
    )


def _known_keys(store: "Store", source: Source, options: ImportOptions) -> Sequence[str]:
    """Return the keys to import, after adding to the catalogue or leaving out what it does not have."""
    unknown = [key for key in source.keys if key not in store.clips]
    if not unknown:
        return source.keys
    if options.create_clips:
        new = [Clip(key=key, corpus=options.corpus, split="unlabeled") for key in unknown]
        store.clips.add(new, command=options.command)
        return source.keys
    if options.ignore_unknown:
        keys = [key for key in source.keys if key in store.clips]
        if keys:
            return keys
    more = f" (and {len(unknown) - 1} more)" if len(unknown) > 1 else ""
    raise BadInput(
        f"{source.path}: clip {unknown[0]!r} is not in the catalogue{more}",
        "ingest the clips first, or pass --create-clips, or leave them out with --ignore-unknown",
    )


def _fill(
    writer: "FeatureWriter",
    source: Source,
    spec: SpaceSpec,
    wanted: frozenset[str],
    options: ImportOptions,
    progress: Progress | None,
) -> dict[str, str]:
    """Write the wanted clips; return those that cannot be taken, with the reason."""
    quarantined: dict[str, str] = {}
    for done, (key, array) in enumerate(_items(source, wanted), start=1):
        try:
            if isinstance(array, BadInput):
                raise array
            writer.add(key, _prepared(fit(array, spec.level, spec.row_shape), options))
        except BadInput as error:
            quarantined[key] = error.message
        if progress:
            progress(done, len(wanted))
    return quarantined


def _items(source: Source, wanted: frozenset[str]) -> Iterable[tuple[str, "NDArray[Any] | BadInput"]]:
    return source.items(wanted) if wanted else ()


def _prepared(array: NDArray[Any], options: ImportOptions) -> NDArray[Any]:
    if options.non_finite == "zero" and array.dtype.kind == "f":
        return np.asarray(np.nan_to_num(array, nan=0.0, posinf=0.0, neginf=0.0))
    return array
