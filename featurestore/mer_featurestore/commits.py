"""What the journal holds: entries, and the commits that add and remove them, as JSON with a checksum."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from mer_featurestore.errors import BadInput, Damaged
from mer_featurestore.records import canonical_json

Kind = Literal["clips", "features", "labels", "runs", "adapters"]
KINDS: tuple[Kind, ...] = ("clips", "features", "labels", "runs", "adapters")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One committed thing: a group of arrays, or a bundle of files. Immutable, named by one commit.

    Attributes:
        kind: `clips`, `features`, `labels`, `runs` or `adapters`.
        name: Name of the space, layer, run or adapter it belongs to.
        path: Where it lies in the store; unique and never used again.
        backend: `zarr`, `hdf5` or `files`.
        attrs: Small facts as JSON (rows, keys, specification, codec …).
        files: File below `path` (`""` when the path itself is the file) -> `{"size": bytes, "sha256": hex}`.
        parents: What it stands on, as `kind/name`.
    """

    kind: Kind
    name: str
    path: str
    backend: str
    attrs: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    parents: tuple[str, ...] = ()

    @property
    def ref(self) -> str:
        """`kind/name`, the way parents are named."""
        return f"{self.kind}/{self.name}"

    def file_names(self) -> list[str]:
        """Return the names of its files relative to the store."""
        return [f"{self.path}/{file}" if file else self.path for file in self.files]

    @property
    def size(self) -> int:
        """Bytes of all its files."""
        return sum(int(facts["size"]) for facts in self.files.values())

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "Entry":
        """Rebuild from `dataclasses.asdict`."""
        return cls(**{**document, "parents": tuple(document["parents"])})


@dataclass(frozen=True, kw_only=True)
class Change:
    """What a commit is asked to do; an empty one makes no commit.

    Attributes:
        add: New entries.
        remove: Paths of entries that later snapshots do not have; their files stay until `gc`.
        quarantine: Space -> key -> reason; None lifts it.
        oldest: Snapshots before this one are given up (only `gc` sets it).
    """

    add: Sequence[Entry] = ()
    remove: Sequence[str] = ()
    quarantine: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    oldest: int | None = None

    def __bool__(self) -> bool:
        return bool(self.add or self.remove or any(self.quarantine.values()) or self.oldest is not None)


@dataclass(frozen=True, kw_only=True)
class Commit:
    """One step of the journal: a change, who made it, when and with which command.

    Attributes:
        number: 1 for the first.
        id: Random; tells a commit that was made from one that lost the race for its number.
        time: ISO 8601, UTC.
        user: Account name.
        host: Machine.
        command: Command line or call.
        message: Free text.
        add: See `Change`.
        remove: See `Change`.
        quarantine: See `Change`.
        oldest: See `Change`.
    """

    number: int
    id: str
    time: str
    user: str
    host: str
    command: str = ""
    message: str = ""
    add: tuple[Entry, ...] = ()
    remove: tuple[str, ...] = ()
    quarantine: Mapping[str, Mapping[str, str | None]] = field(default_factory=dict)
    oldest: int | None = None

    def summary(self) -> str:
        """Return what it did in a few words, e.g. `+ features/prosody-UTT, labels/gold`."""
        parts = []
        if self.add:
            parts.append("+ " + ", ".join(sorted({entry.ref for entry in self.add})))
        if self.remove:
            parts.append("- " + ", ".join(sorted({path.rsplit("/", 1)[0] for path in self.remove})))
        reasons = [reason for keys in self.quarantine.values() for reason in keys.values()]
        added, lifted = sum(r is not None for r in reasons), sum(r is None for r in reasons)
        parts += [f"{added} quarantined"] if added else []
        parts += [f"{lifted} released from quarantine"] if lifted else []
        parts += [f"gave up commits before {self.oldest}"] if self.oldest is not None else []
        return "; ".join(parts)

    def to_bytes(self) -> bytes:
        """Return the file's bytes: canonical JSON that carries its own SHA-256.

        Raises:
            BadInput: Attributes hold something JSON cannot (NaN, arrays …).
        """
        try:
            return seal(asdict(self))
        except (TypeError, ValueError) as error:
            raise BadInput(f"attributes of a commit are not plain JSON: {error}") from error

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "Commit":
        """Read a journal file.

        Args:
            data: Its bytes.
            name: Its name, for the message.

        Raises:
            Damaged: The bytes are not what was written.
        """
        document = unseal(data, name)
        try:
            document["add"] = tuple(Entry.from_json(entry) for entry in document["add"])
            document["remove"] = tuple(document["remove"])
            return cls(**document)
        except (KeyError, TypeError, AttributeError) as error:
            raise Damaged(f"{name} is not a commit: {error}", RESTORE_JOURNAL) from error


RESTORE_JOURNAL = (
    "restore it from a copy; --at reads the commits before it, and `mer-fs verify` lists all damage"
)


def seal(document: Mapping[str, Any]) -> bytes:
    """Return a document as one line of canonical JSON that begins with the SHA-256 of the rest."""
    rest = canonical_json(document)[1:] + b"\n"
    return _SEAL % hashlib.sha256(rest).hexdigest().encode() + rest


def unseal(data: bytes, name: str) -> dict[str, Any]:
    """Return the document that `seal` made; Damaged when the bytes are others."""
    start = len(_SEAL % bytes(64))
    if data[:start] != _SEAL % hashlib.sha256(data[start:]).hexdigest().encode():
        raise Damaged(
            f"{name} is damaged or half-written ({len(data)} bytes): its checksum fails", RESTORE_JOURNAL
        )
    document: dict[str, Any] = json.loads(data)
    del document["sha256"]
    return document


_SEAL = b'{"sha256":"%s",'
