"""The key index: sorted 64-bit hashes of the keys of all fragments of a space, and where each clip lies.

Fragments keep their own sorted hashes (memory-mapped); here they are merged. A hash only proposes: the key
itself decides.
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mer_featurestore.fragments import Fragment


def hash_keys(keys: Iterable[bytes]) -> NDArray[np.uint64]:
    """Return the 64-bit hash of each key's UTF-8 bytes (BLAKE2b, 8 bytes, little-endian), uint64 `[n]`."""
    blake2b = hashlib.blake2b
    return np.frombuffer(b"".join([blake2b(key, digest_size=8).digest() for key in keys]), "<u8")


def encode_keys(keys: Iterable[str]) -> list[bytes]:
    """Return the keys' UTF-8 bytes."""
    return [key.encode("utf-8", "surrogatepass") for key in keys]


class KeyIndex:
    """Finds clips by key over the fragments of a space.

    A clip's number counts through the fragments in their order: clip j of fragment i is `bases[i] + j`.
    """

    def __init__(self, fragments: Sequence["Fragment"]) -> None:
        self.fragments = fragments
        self.bases = np.zeros(len(fragments) + 1, np.int64)
        np.cumsum([len(f) for f in fragments], out=self.bases[1:])

    def __len__(self) -> int:
        return int(self.bases[-1])

    @cached_property
    def _merged(self) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """All hashes, sorted, and the clip number of each."""
        if len(self.fragments) == 1:
            return self.fragments[0].hashes, self.fragments[0].order
        if not self.fragments:
            return np.empty(0, np.uint64), np.empty(0, np.int64)
        hashes = np.concatenate([f.hashes for f in self.fragments])
        numbers = np.concatenate(
            [f.order + base for f, base in zip(self.fragments, self.bases[:-1], strict=True)]
        )
        by_hash = np.argsort(hashes, kind="stable")  # merges runs that are sorted already
        return hashes[by_hash], numbers[by_hash]

    def find(self, keys: Sequence[str]) -> NDArray[np.int64]:
        """Return the clip number of each key, int64 `[n]`; -1 where there is none."""
        coded = encode_keys(keys)
        return self.find_hashed(coded, hash_keys(coded))

    def find_hashed(self, coded: Sequence[bytes], wanted: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Do what `find` does for keys that are encoded and hashed already."""
        hashes, numbers = self._merged
        found = np.full(len(coded), -1, np.int64)
        if not len(hashes):
            return found
        places = np.searchsorted(hashes, wanted)
        hits = np.flatnonzero(hashes[np.minimum(places, len(hashes) - 1)] == wanted)
        candidates = numbers[places[hits]]
        owners = np.searchsorted(self.bases, candidates, side="right") - 1
        for owner in sorted(set(owners.tolist())):
            mine = owners == owner
            self._confirm(owner, hits[mine], candidates[mine], coded, found)
        for i in hits[found[hits] < 0].tolist():
            found[i] = self._search(coded[i], int(places[i]))
        return found

    def _confirm(
        self,
        owner: int,
        hits: NDArray[np.int64],
        candidates: NDArray[np.int64],
        coded: Sequence[bytes],
        found: NDArray[np.int64],
    ) -> None:
        """Note the candidates, all of one fragment, that have the very key that is looked for."""
        clips = candidates - self.bases[owner]
        same = self.fragments[owner].have_keys(clips, [coded[i] for i in hits.tolist()])
        found[hits[same]] = candidates[same]

    def _search(self, key: bytes, place: int) -> int:
        """Return the clip among those of one hash that has this very key; -1 when none has."""
        hashes, numbers = self._merged
        wanted = hashes[place]
        while place < len(hashes) and hashes[place] == wanted:
            number = numbers[place : place + 1]
            owner = int(np.searchsorted(self.bases, number[0], side="right")) - 1
            if self.fragments[owner].have_keys(number - self.bases[owner], [key])[0]:
                return int(number[0])
            place += 1
        return -1
