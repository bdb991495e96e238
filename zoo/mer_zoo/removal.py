"""Removing runs, with the records that make no sense without them."""

from dataclasses import replace
from typing import TYPE_CHECKING

from mer_featurestore.errors import StoreError, UnknownName
from mer_featurestore.maintenance import RemoveReport, remove
from mer_zoo.runs import EVALUATION, SEARCH

if TYPE_CHECKING:
    from mer_featurestore import Store


def remove_run(
    store: "Store", name: str, *, dry_run: bool = False, force: bool = False, command: str = ""
) -> RemoveReport:
    """Remove a run or a record from later snapshots, a run with its evaluations and its search.

    That the evaluations were made stays in the journal.

    Args:
        store: The store; it moves to the commit of the removal.
        name: Of the run.
        dry_run: Only say what would go and what else stands on it.
        force: Remove it although label layers, comparisons or others stand on it.
        command: For the journal.

    Raises:
        UnknownName: There is no such run.
        StoreError: Others stand on it.
    """
    if name not in store.runs:
        raise UnknownName("run", name, store.runs)
    report = remove(store, f"runs/{name}", dry_run=True)
    records = [
        f"runs/{bundle.name}"
        for bundle in store.runs.values()
        if bundle.attrs.get("type") in (EVALUATION, SEARCH) and bundle.attrs.get("run") == name
    ]
    others = tuple(ref for ref in report.dependents if ref not in records)
    if dry_run:
        return replace(report, dependents=others)
    if others and not force:
        raise StoreError(
            f"{', '.join(others)} would lose where they came from: runs/{name}",
            "remove those first, or use --force",
        )
    for record in records:
        remove(store, record, command=command)
    return remove(store, f"runs/{name}", force=force, command=command)
