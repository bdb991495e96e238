"""HDF5 with a dataset per key, or a group per key with a dataset of one name in each (as hloc writes)."""

from collections.abc import Container
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mer_featurestore.content import file_hash
from mer_featurestore.errors import BadInput
from mer_featurestore.interchange.sources import Items, Source, make_source, numbers, readable
from mer_featurestore.records import Level


def from_hdf5(path: Path, *, member: str | None = None, level: Level | None = None) -> Source:
    """Open an HDF5 file.

    Links, and datasets whose bytes lie in other files, are not followed: a file from elsewhere could name any
    file of this machine.

    Args:
        path: The file.
        member: With a group per key, the dataset to take of each (`descriptors`, …).
        level: `utt` or `frame`; None to tell by the first array.

    Raises:
        BadInput: The file is not readable, or holds several datasets a key and `member` does not choose.
    """
    names = _datasets(path)
    groups, members = {n.rpartition("/")[0] for n in names}, {n.rpartition("/")[2] for n in names}
    group_per_key = "" not in groups and len(groups) > 1 and len(names) == len(groups) * len(members)
    if group_per_key and len(members) == 1:
        member = next(iter(members))
    if member is not None:
        chosen = {n.removesuffix(f"/{member}"): n for n in names if n.endswith(f"/{member}")}
        if not chosen:
            raise BadInput(
                f"{path} has no datasets named {member!r}", f"there are: {', '.join(sorted(members)[:12])}"
            )
    elif group_per_key:
        raise BadInput(
            f"{path} has a group per key with the datasets {', '.join(sorted(members)[:12])}",
            f"choose one with --member {min(members)}",
        )
    else:
        chosen = {name: name for name in names}

    def items(wanted: Container[str]) -> Items:
        import h5py

        with h5py.File(path, "r") as file:
            for key, name in chosen.items():
                if key in wanted:
                    where = f"{path}, dataset {name}"
                    try:
                        with readable(where):
                            array = _read(file[name], where)
                    except BadInput as error:
                        yield key, error
                    else:
                        yield key, array

    facts = {"member": member} if member else {}
    return make_source("hdf5", path, list(chosen), items, level=level, content=file_hash(path), facts=facts)


def _datasets(path: Path) -> list[str]:
    import h5py

    found: list[str] = []

    def visit(name: str, thing: Any) -> None:
        if isinstance(thing, h5py.Dataset):
            found.append(name)

    with readable(str(path), "is not an HDF5 file"), h5py.File(path, "r") as file:
        file.visititems(visit)  # hard links only: soft and external ones are left alone
    return found


def _read(dataset: Any, where: str) -> NDArray[Any]:
    if dataset.external or dataset.is_virtual:
        raise BadInput(f"{where} has its bytes in other files", "copy them into this one")
    if dataset.dtype.kind not in "fiu":
        raise BadInput(f"{where} is of type {dataset.dtype}", "features are numbers")
    return numbers(np.asarray(dataset[()]), where)
