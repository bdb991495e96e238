"""The best contiguous layers: chosen from a probe's scores, and found again in the record of a probe."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mer_featurestore.errors import UnknownName, suggest
from mer_zoo.errors import ZooError

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.bundles import Bundle

PROBE = "probe"
_QUARTER, _LEAST = 4, 2


@dataclass(frozen=True, slots=True)
class Band:
    """Layers next to each other, as `--layers` numbers them: layer k is the output of block k.

    Attributes:
        first: The first, 1 or more: layer 0 is what enters the first block, so no block makes it.
        last: The last.
        run: The probe's record in the store.
    """

    first: int
    last: int
    run: str

    @property
    def layers(self) -> tuple[int, ...]:
        """Their numbers, ascending."""
        return tuple(range(self.first, self.last + 1))

    def __str__(self) -> str:
        return f"{self.first}-{self.last}" if self.last > self.first else str(self.first)


def default_width(blocks: int) -> int:
    """Return how many layers a band has at most unless said: a quarter of the blocks, and at least two."""
    return max(_LEAST, blocks // _QUARTER)


def choose_band(uar: Mapping[int, float], alike: Collection[int], most: int) -> tuple[int, int] | None:
    """Return the first and last of the best contiguous layers.

    *Reconstructed*: the paper tunes the best layers and does not say how many are best. Here it is the best
    layer and its neighbours on both sides, as far as the clips cannot tell them from the best; of more than
    `most` such layers, those `most` neighbours, the best among them, whose mean is highest. Layer 0 never
    belongs to it: no block makes it.

    Args:
        uar: Layer -> score; layers that were not probed end a band.
        alike: Layers whose score is not distinguishable from that of the best block.
        most: Layers at most.

    Returns:
        None when no block's layer was probed.

    Raises:
        ZooError: `most` is less than one.
    """
    if most < 1:
        raise ZooError(f"a band of at most {most} layers", "use --band 1 or more")
    best = best_block(uar)
    if best is None:
        return None
    good = {layer for layer in alike if layer > 0}
    first = last = best
    while first - 1 in good:
        first -= 1
    while last + 1 in good:
        last += 1
    if last - first < most:
        return first, last
    starts = range(max(first, best - most + 1), min(best, last - most + 1) + 1)
    start = max(starts, key=lambda s: (sum(uar[layer] for layer in range(s, s + most)), -s))
    return start, start + most - 1


def best_block(uar: Mapping[int, float]) -> int | None:
    """Return the layer of highest score but layer 0, the first of equals; None when there is no other."""
    blocks = [layer for layer in uar if layer > 0]
    return max(blocks, key=lambda layer: (uar[layer], -layer)) if blocks else None


def best_band(
    store: "Store", plugin: str, run: str | None = None, *, checkpoint: Mapping[str, Any] | None = None
) -> Band:
    """Return the best layers of an encoder, as a probe on record found them.

    Args:
        store: The store.
        plugin: The extractor that was probed.
        run: A probe's record; None takes the newest of that plugin.
        checkpoint: What `made_by()["checkpoint"]` of the encoder at hand says, to take only probes of the
            same weights; None takes any of the plugin's.

    Raises:
        UnknownName: There is no such record.
        ZooError: No probe of the plugin (or checkpoint) is on record, the record is of something else, or it
            probed no block.
    """
    if run is not None:
        return _band_of(_named(store, plugin, run, checkpoint))
    probes = [b for b in _probes(store) if b.attrs["plugin"] == plugin]
    fitting = [b for b in probes if _is_of(b, checkpoint)]
    if not fitting:
        of = f"of {plugin!r}" if not probes else f"of {plugin!r} with these weights"
        others = sorted({b.attrs["plugin"] for b in _probes(store)} - {plugin})
        hint = f" ({suggest(plugin, others)})" if others and not probes else ""
        raise ZooError(
            f"no probe {of} is on record, so nobody knows its best layers{hint}",
            f"probe them: mer-zoo probe-layers {plugin}, or say which: --layers 16-21",
        )
    return _band_of(fitting[-1])


def _probes(store: "Store") -> "list[Bundle]":
    """Return the records of probes, oldest first."""
    found = [bundle for bundle in store.runs.values() if bundle.attrs.get("kind") == PROBE]
    return sorted(found, key=lambda bundle: bundle.commit)


def _named(store: "Store", plugin: str, run: str, checkpoint: Mapping[str, Any] | None) -> "Bundle":
    names = [bundle.name for bundle in _probes(store)]
    if run not in store.runs:
        raise UnknownName("probe", run, names)
    bundle = store.runs[run]
    if bundle.attrs.get("kind") != PROBE:
        listed = ", ".join(names) or f"none yet; mer-zoo probe-layers {plugin} makes one"
        raise ZooError(f"{run!r} is no probe of layers", f"probes on record: {listed}")
    if bundle.attrs["plugin"] != plugin or not _is_of(bundle, checkpoint):
        other = bundle.attrs["plugin"] if bundle.attrs["plugin"] != plugin else "other weights of it"
        raise ZooError(f"{run!r} probed {other}, not {plugin}", f"probe it: mer-zoo probe-layers {plugin}")
    return bundle


def _is_of(bundle: "Bundle", checkpoint: Mapping[str, Any] | None) -> bool:
    if checkpoint is None:
        return True
    theirs = bundle.attrs.get("checkpoint") or {}
    hashed = "weights_sha256" in theirs and "weights_sha256" in checkpoint
    # The same weights in two folders are the same weights.
    return theirs["weights_sha256"] == checkpoint["weights_sha256"] if hashed else theirs == dict(checkpoint)


def _band_of(bundle: "Bundle") -> Band:
    band = bundle.attrs.get("band")
    if not band:
        raise ZooError(
            f"{bundle.name!r} probed no block, only what enters the first",
            f"probe more layers: mer-zoo probe-layers {bundle.attrs['plugin']}",
        )
    return Band(int(band[0]), int(band[1]), bundle.name)
