"""What an extraction by several must come to."""

from pathlib import Path

from mer_featurestore import Store
from mer_plugins.pipeline import Request, extract, plan


def check_as_by_one_process(store: Store, request: Request, folder: Path) -> None:
    """Extract the same clips into a new store by one process: features and quarantine must be equal."""
    single = Store.create(folder / "single")
    single.clips.add(store.clips.values())
    for name in extract(single, plan(single, request)).spaces:
        ours, theirs = store.features[name], single.features[name]
        assert sorted(ours.keys()) == sorted(theirs.keys())
        assert all(ours[key].tobytes() == theirs[key].tobytes() for key in sorted(theirs.keys()))
        assert dict(store.features.quarantine(name)) == dict(single.features.quarantine(name))
