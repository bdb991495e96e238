"""One label layer: who says what about which clip, how sure, and why; immutable once made."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.errors import BadInput, UnknownName, suggest
from mer_featurestore.names import check_name
from mer_featurestore.records import canonical_json

if TYPE_CHECKING:
    import pandas as pd

HUMAN, PSEUDO = 0, 1
SOURCES = ("human", "pseudo")
NO_CLASS = -1
_SUM_TOLERANCE = 1e-2  # probabilities that went through float16 sum to 1 within this


@dataclass(frozen=True, eq=False, repr=False)
class LabelLayer:
    """Labels of n clips over C classes, with the votes of M members.

    Every array is checked, converted to the dtype below and made read-only.

    Attributes:
        name: Of the layer, e.g. `gold`, `round1`.
        classes: Class names; their order is fixed for good and is what `label` indexes.
        keys: Clip keys, each once.
        label: int16 `[n]`, index into `classes`; -1 for no class.
        probs: float32 `[n, C]`, rows sum to 1 (or are all 0 where nothing is known).
        confidence: float32 `[n]`, 0 to 1.
        source: uint8 `[n]`, 0 human, 1 pseudo.
        votes: int16 `[n, M]`, the class each member voted for; -1 where it abstained.
        members: Names of the M voters, e.g. `runs/agt-1`.
        reason: Why each row was kept or dropped; "" when there is nothing to say.
        kept: bool `[n]`; rows that were judged and dropped stay on record and train nothing.
        parents: What it stands on: `labels/gold` lies under it, `runs/agt-1` made its votes.
        attrs: JSON: the strategy and every parameter of it.

    Raises:
        BadInput: The parts do not fit together.
    """

    name: str
    classes: tuple[str, ...]
    keys: tuple[str, ...]
    label: NDArray[np.int16]
    probs: NDArray[np.float32]
    confidence: NDArray[np.float32]
    source: NDArray[np.uint8]
    votes: NDArray[np.int16]
    members: tuple[str, ...]
    reason: tuple[str, ...]
    kept: NDArray[np.bool_]
    parents: tuple[str, ...] = ()
    attrs: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "label layer")
        for name in ("classes", "keys", "members", "reason", "parents"):
            object.__setattr__(self, name, tuple(str(item) for item in getattr(self, name)))
        check_classes(self.classes)
        self._check_keys()
        n, C, M = len(self.keys), len(self.classes), len(self.members)
        self._integers("label", np.dtype(np.int16), (n,), NO_CLASS, C - 1)
        self._integers("votes", np.dtype(np.int16), (n, M), NO_CLASS, C - 1)
        self._integers("source", np.dtype(np.uint8), (n,), HUMAN, PSEUDO)
        self._integers("kept", np.dtype(np.bool_), (n,), 0, 1)
        self._fractions("probs", (n, C))
        self._fractions("confidence", (n,))
        self._check_rows()
        try:
            canonical_json(dict(self.attrs))
        except (TypeError, ValueError) as error:
            raise self._bad(f"attributes are no JSON ({error})", "use text, finite numbers, lists") from None

    @classmethod
    def human(
        cls,
        name: str,
        classes: Sequence[str] | None,
        labels: Mapping[str, str],
        *,
        parents: Sequence[str] = (),
        attrs: Mapping[str, Any] | None = None,
    ) -> "LabelLayer":
        """Make a layer of certain labels given by people.

        Args:
            name: Of the layer.
            classes: Class names in their order; None for those that occur, sorted.
            labels: Key -> class.
            parents: What it stands on.
            attrs: JSON to keep with it.

        Raises:
            BadInput: A label is not one of the classes; the message names the key and the label.
        """
        order = tuple(classes) if classes is not None else tuple(sorted(set(labels.values())))
        check_classes(order)
        index = {c: i for i, c in enumerate(order)}
        for key, label in labels.items():
            if label not in index:
                raise BadInput(
                    f"label {label!r} of clip {key!r} is not one of the classes", class_remedy(label, order)
                )
        codes = np.array([index[c] for c in labels.values()], np.int16)
        n = len(labels)
        return cls(
            name, order, tuple(labels), codes,
            probs=np.eye(len(order), dtype=np.float32)[codes],
            confidence=np.ones(n, np.float32),
            source=np.full(n, HUMAN, np.uint8),
            votes=np.empty((n, 0), np.int16),
            members=(),
            reason=("",) * n,
            kept=np.ones(n, np.bool_),
            parents=tuple(parents),
            attrs=attrs or {},
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> str | None:
        """Return the class of a clip; None where the layer knows the clip and gives it no class."""
        label = int(self.label[self.row(key)])
        return self.classes[label] if label != NO_CLASS else None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, LabelLayer):
            return NotImplemented
        return all(_same(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    __hash__ = None  # type: ignore[assignment]  # it holds arrays

    def __repr__(self) -> str:
        kinds = [
            f"{n} {SOURCES[s]}" for s in (HUMAN, PSEUDO) if (n := int((self.kept & (self.source == s)).sum()))
        ]
        dropped = len(self) - int(self.kept.sum())
        counts = " ".join(f"{c}={n}" for c, n in self.counts().items())
        over = f" over {', '.join(self.parents)}" if self.parents else ""
        left_out = f", {dropped} dropped" if dropped else ""
        return f"<LabelLayer {self.name!r}: {' + '.join(kinds) or 'no'} labels{left_out}; {counts}{over}>"

    def row(self, key: str) -> int:
        """Return the row of a clip.

        Raises:
            UnknownName: The layer says nothing about it.
        """
        try:
            return self._rows[key]
        except KeyError:
            raise UnknownName(f"clip in label layer {self.name!r}", key, self.keys) from None

    def counts(self) -> dict[str, int]:
        """Return class -> how many kept rows."""
        n = np.bincount(self.label[self.kept], minlength=len(self.classes))
        return {c: int(n[i]) for i, c in enumerate(self.classes)}

    def over(self, parents: Iterable[str]) -> "LabelLayer":
        """Return the same layer standing on these committed things (`labels/gold`, `runs/agt-1`)."""
        return replace(self, parents=tuple(parents))

    def take(self, keys: Iterable[str]) -> "LabelLayer":
        """Return the layer with these rows only, in this order."""
        keys = tuple(keys)
        rows = np.array([self.row(key) for key in keys], np.int64)
        cut = {name: getattr(self, name)[rows] for name in _ARRAYS}
        return replace(self, keys=keys, reason=tuple(self.reason[i] for i in rows), **cut)

    def to_pandas(self) -> "pd.DataFrame":
        """Return one row per clip, indexed by key.

        Columns: `label` (categorical), `confidence`, `source`, `kept`, `reason`, `p_<class>` per class and
        `vote_<member>` per member.
        """
        import pandas as pd

        def named(codes: NDArray[np.int16]) -> Any:
            return pd.Categorical.from_codes(codes, categories=list(self.classes))

        columns: dict[str, Any] = {
            "label": named(self.label),
            "confidence": self.confidence,
            "source": pd.Categorical.from_codes(self.source.astype(np.int8), categories=list(SOURCES)),
            "kept": self.kept,
            "reason": list(self.reason),
        }
        columns |= {f"p_{c}": self.probs[:, i] for i, c in enumerate(self.classes)}
        columns |= {f"vote_{m}": named(self.votes[:, i]) for i, m in enumerate(self.members)}
        return pd.DataFrame(columns, index=pd.Index(list(self.keys), name="key", dtype=object))

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {key: i for i, key in enumerate(self.keys)}

    def _check_keys(self) -> None:
        if len(self._rows) != len(self.keys):
            twice = next(key for key, n in Counter(self.keys).items() if n > 1)
            raise self._bad(f"clip {twice!r} occurs more than once", "give every clip one row")
        if len(self.reason) != len(self.keys):
            raise self._bad(f"{len(self.reason)} reasons for {len(self.keys)} clips", "give one per clip")

    def _integers(self, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], low: int, high: int) -> None:
        array = np.asarray(getattr(self, name))
        if array.size == 0 and array.dtype.kind == "f":
            array = array.astype(dtype)  # np.array([]) is float64 and says nothing
        if array.shape != shape or array.dtype.kind not in "biu":
            raise self._bad(
                f"{name} has shape {array.shape}, dtype {array.dtype}", f"it must be {dtype} of shape {shape}"
            )
        outside = (array < low) | (array > high) if array.dtype.kind != "b" else np.zeros(shape, np.bool_)
        if outside.any():
            i = tuple(int(x) for x in np.argwhere(outside)[0])
            raise self._bad(
                f"{name} of clip {self.keys[i[0]]!r} is {array[i]}", f"it must lie between {low} and {high}"
            )
        self._freeze(name, array.astype(dtype))

    def _fractions(self, name: str, shape: tuple[int, ...]) -> None:
        array = np.array(getattr(self, name), np.float32)
        if array.shape != shape:
            raise self._bad(f"{name} has shape {array.shape}", f"it must be {shape}")
        outside = ~((array >= 0) & (array <= 1 + _SUM_TOLERANCE))  # catches NaN as well
        if outside.any():
            i = tuple(int(x) for x in np.argwhere(outside)[0])
            raise self._bad(
                f"{name} of clip {self.keys[i[0]]!r} is {array[i]}", "it must lie between 0 and 1"
            )
        self._freeze(name, array)

    def _check_rows(self) -> None:
        total = self.probs.sum(axis=1)
        off = np.flatnonzero((np.abs(total - 1) > _SUM_TOLERANCE) & (total != 0))
        if len(off):
            raise self._bad(
                f"probabilities of clip {self.keys[off[0]]!r} sum to {total[off[0]]:.3f}",
                "normalise them to 1",
            )
        unclear = np.flatnonzero(self.kept & (self.label == NO_CLASS))
        if len(unclear):
            raise self._bad(
                f"clip {self.keys[unclear[0]]!r} is kept and has no class",
                "drop it (kept = False) or give one",
            )

    def _freeze(self, name: str, array: NDArray[Any]) -> None:
        array.setflags(write=False)
        object.__setattr__(self, name, array)

    def _bad(self, message: str, remedy: str) -> BadInput:
        return BadInput(f"label layer {self.name!r}: {message}", remedy)


_ARRAYS = ("label", "probs", "confidence", "source", "votes", "kept")


def check_classes(classes: Sequence[str]) -> None:
    """Refuse a class list that is empty, has a name twice, or a name that is empty or not printable.

    Raises:
        BadInput: Naming the class.
    """
    if not classes:
        raise BadInput("the class list is empty", "name the classes in their order, e.g. angry,happy,sad")
    for name, n in Counter(classes).items():
        if n > 1:
            raise BadInput(f"class {name!r} is in the class list twice", "name every class once")
        if not name.strip() or not name.isprintable() or name != name.strip():
            raise BadInput(
                f"class name {name!r} cannot be used", "give a printable word without spaces around it"
            )
    if len(classes) > np.iinfo(np.int16).max:
        raise BadInput(f"{len(classes)} classes", f"at most {np.iinfo(np.int16).max} are possible")


def class_remedy(label: str, classes: Sequence[str]) -> str:
    """Return what to do about a label outside the class list."""
    return f"{suggest(label, classes)} (or add it with --classes)"


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray):
        return bool(np.array_equal(a, b))
    if isinstance(a, Mapping):
        return canonical_json(dict(a)) == canonical_json(dict(b))
    return bool(a == b)
