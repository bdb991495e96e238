"""The clip catalogue of a store: which clips there are, where their media lie, and in which split."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from mer_featurestore import texts
from mer_featurestore.commits import Change, Entry
from mer_featurestore.drafts import Draft
from mer_featurestore.errors import RESTORE, BadInput, Damaged, MerError, UnknownName
from mer_featurestore.groups import Arrays, Group, open_group
from mer_featurestore.names import check_key
from mer_featurestore.records import MODALITIES, Clip, Modality
from mer_featurestore.snapshot import Snapshot
from mer_featurestore.storage import Storage

if TYPE_CHECKING:
    import pandas as pd

    from mer_featurestore.store import Store

NAME = "catalogue"
_TEXTS = ("key", "corpus", "split", "speaker", "group", "audio", "video", "text", "content_hash")


@dataclass(frozen=True, slots=True)
class AddReport:
    """How many clips were new, already there, and changed."""

    added: int = 0
    unchanged: int = 0
    updated: int = 0


@dataclass(frozen=True, slots=True)
class ClipPlan:
    """What adding clips would do: the rows to write, and the report."""

    write: tuple[Clip, ...]
    report: AddReport


class Clips(Mapping[str, Clip]):
    """The clips of a store by key, in the order they were added."""

    def __init__(self, store: "Store") -> None:
        self._store = store
        self._fragments: dict[str, list[Clip]] = {}  # path -> its rows; fragments never change
        self._table: tuple[tuple[str, ...], dict[str, Clip]] = ((), {})

    def __getitem__(self, key: str) -> Clip:
        """Return a clip; UnknownName when there is none of that key."""
        clip = self._clips().get(key)
        if clip is None:
            raise UnknownName("clip", key, self._clips())
        return clip

    def __iter__(self) -> Iterator[str]:
        return iter(self._clips())

    def __len__(self) -> int:
        return len(self._clips())

    def __contains__(self, key: object) -> bool:
        return key in self._clips()

    def __repr__(self) -> str:
        clips = list(self.values())
        splits = Counter(clip.split for clip in clips)
        has = [f"{m} {n}" for m in MODALITIES if (n := sum(clip.has(m) for clip in clips))]
        speakers = len({clip.speaker for clip in clips} - {""})
        parts = [", ".join(f"{split} {n}" for split, n in splits.items()), ", ".join(has)]
        parts += [f"{speakers} speakers"] if speakers else []
        return f"<Clips: {len(clips)} clips; {'; '.join(parts)}>" if clips else "<Clips: none yet>"

    def select(
        self,
        *,
        split: str | Iterable[str] | None = None,
        corpus: str | Iterable[str] | None = None,
        keys: Iterable[str] | None = None,
        having: Modality | None = None,
    ) -> list[Clip]:
        """Return clips in catalogue order, or in the order of `keys`.

        Args:
            split: Of these splits only.
            corpus: Of these corpora only.
            keys: These clips only.
            having: Those with something of this modality only.

        Raises:
            UnknownName: A split, corpus or key that no clip has.
        """
        found = [self[key] for key in keys] if keys is not None else list(self.values())
        for what, wanted in (("split", split), ("corpus", corpus)):
            if wanted is None:
                continue
            names = {wanted} if isinstance(wanted, str) else set(wanted)
            known = {getattr(clip, what) for clip in self.values()}
            for name in sorted(names - known):
                raise UnknownName(what, name, known)
            found = [clip for clip in found if getattr(clip, what) in names]
        return [clip for clip in found if having is None or clip.has(having)]

    def add(
        self, clips: Iterable[Clip], *, update: bool = False, command: str = "", message: str = ""
    ) -> AddReport:
        """Add clips in one commit; a row that is there already, with the same content, is passed over.

        Args:
            clips: The clips; an empty `content_hash` says nothing and never differs from one that is there.
            update: Take the new row where it differs from the one that is there, instead of refusing it.
            command: For the log.
            message: For the log.

        Raises:
            BadInput: A key twice, or a row that differs from the one that is there (both are shown).
            BadName: A key that cannot be stored.
        """
        clips = tuple(clips)
        _check_keys(clips)
        plan = ClipPlan((), AddReport())
        with Draft(self._store) as draft:
            entry: Entry | None = None

            def build(now: Snapshot) -> Change:
                nonlocal plan, entry
                plan = self.plan(now, clips, update=update)
                entry = self.entry(draft, plan)
                return Change(add=[entry] if entry else [])

            self._store.write(build, command=command, message=message)
            draft.keep(entry)
        return plan.report

    def plan(self, now: Snapshot, clips: Sequence[Clip], *, update: bool = False) -> ClipPlan:
        """Say what adding clips to a snapshot would do; BadInput for rows that differ, unless `update`."""
        known = self._at(now)
        new = [clip for clip in clips if clip.key not in known]
        again = ((known[clip.key], clip) for clip in clips if clip.key in known)
        # Equal rows, nearly all of them, are told by one comparison.
        changed = [clip for old, clip in again if old != clip and _differing(old, clip)]
        if changed and not update:
            raise _conflict(known[changed[0].key], changed[0], len(changed))
        merged = [_keeping_hash(known[clip.key], clip) for clip in changed]
        unchanged = len(clips) - len(new) - len(changed)
        return ClipPlan((*new, *merged), AddReport(len(new), unchanged, len(changed)))

    def entry(self, draft: Draft, plan: ClipPlan) -> Entry | None:
        """Write the rows of a plan; None when there is nothing to write."""
        if not plan.write:
            return None
        attrs = {"rows": len(plan.write), "added": plan.report.added, "updated": plan.report.updated}
        return draft.entry("clips", NAME, plan.write, lambda: _to_group(plan.write), attrs=attrs)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per clip, indexed by key; columns are the fields of `Clip`."""
        import pandas as pd

        clips = list(self.values())
        columns = {f.name: [getattr(clip, f.name) for clip in clips] for f in fields(Clip) if f.name != "key"}
        return pd.DataFrame(columns, index=pd.Index([c.key for c in clips], name="key", dtype=object))

    def _clips(self) -> dict[str, Clip]:
        return self._at(self._store.snapshot)

    def _at(self, snapshot: Snapshot) -> dict[str, Clip]:
        """Return the table at a snapshot: fragments in commit order, later rows replacing earlier ones."""
        entries = snapshot.entries("clips")
        paths = tuple(entry.path for entry in entries)
        if self._table[0] != paths:
            table: dict[str, Clip] = {}
            for entry in entries:
                if entry.path not in self._fragments:
                    self._fragments[entry.path] = _read_fragment(self._store.storage, entry)
                table.update((clip.key, clip) for clip in self._fragments[entry.path])
            self._table = paths, table
        return self._table[1]


def _check_keys(clips: Sequence[Clip]) -> None:
    for clip in clips:
        check_key(clip.key)
    for key, n in Counter(clip.key for clip in clips).items():
        if n > 1:
            raise BadInput(f"clip {key!r} is given {n} times", "give every clip once")


def _differing(old: Clip, new: Clip) -> list[str]:
    return [f.name for f in fields(Clip) if not _equal(f.name, getattr(old, f.name), getattr(new, f.name))]


def _equal(name: str, old: Any, new: Any) -> bool:
    if name == "duration":
        return bool(old == new or (math.isnan(old) and math.isnan(new)))
    return bool(old == new or (name == "content_hash" and not new))


def _keeping_hash(old: Clip, new: Clip) -> Clip:
    """Return the new row, with the old hash when the new one has none and nothing the hash covers changed."""
    if new.content_hash or (old.audio, old.video, old.text) != (new.audio, new.video, new.text):
        return new
    return replace(new, content_hash=old.content_hash)


def _conflict(old: Clip, new: Clip, count: int) -> BadInput:
    differences = ", ".join(
        f"{name} was {getattr(old, name)!r} and is now {getattr(new, name)!r}"
        for name in _differing(old, new)
    )
    more = f" ({count - 1} more clips differ)" if count > 1 else ""
    return BadInput(
        f"clip {new.key!r} is in the catalogue with another row: {differences}{more}",
        "add --update to take the new rows, or rename the clips",
    )


def _to_group(clips: Sequence[Clip]) -> tuple[Arrays, dict[str, Any]]:
    columns = {name: [getattr(clip, name) or "" for clip in clips] for name in _TEXTS}
    arrays, attrs = texts.pack(columns)
    present = [sum(1 << bit for bit, m in enumerate(MODALITIES) if clip.has(m)) for clip in clips]
    arrays["present"] = np.array(present, np.uint8)
    arrays["duration"] = np.array([clip.duration for clip in clips], np.float64)
    return arrays, {"kind": "clips", "present_bits": list(MODALITIES), **attrs}


def _read_fragment(storage: Storage, entry: Entry) -> list[Clip]:
    try:
        return _from_group(open_group(storage, entry))
    except MerError:
        raise
    except (KeyError, TypeError, ValueError) as error:
        raise Damaged(f"{entry.path} does not hold clips: {error!r}", RESTORE) from error


def _from_group(group: Group) -> list[Clip]:
    columns: dict[str, list[Any]] = dict(texts.unpack(group))
    present = group.read("present").tolist()
    for bit, modality in enumerate(MODALITIES):
        here = zip(columns[modality], present, strict=True)
        columns[modality] = [text if bits >> bit & 1 else None for text, bits in here]
    # The one nan of the standard library: clips with it are equal, as the default is the same object.
    columns["duration"] = [math.nan if math.isnan(d) else d for d in group.read("duration").tolist()]
    names = [*_TEXTS, "duration"]
    rows = zip(*(columns[name] for name in names), strict=True)
    return [Clip(**dict(zip(names, row, strict=True))) for row in rows]
