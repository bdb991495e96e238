"""All layers of the labelled clips, extracted once into a pooled space with a layer axis."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from mer_featurestore.wording import plural
from mer_plugins.pipeline import How, Request, extract, plan

if TYPE_CHECKING:
    from mer_featurestore import Store

STEM = "layers"


def extract_layers(
    store: "Store",
    request: Request,
    keys: Sequence[str],
    how: How | None,
    told: Callable[[int, int], None],
) -> tuple[str, tuple[str, ...]]:
    """Extract every layer of these clips where it is not there yet; loads nothing when all of it is.

    Args:
        store: The store; it moves to the commits that are made.
        request: The extractor and its options.
        keys: Which clips.
        how: How to extract.
        told: Called with clips done and in all.

    Returns:
        The space's name, and what a person should know.

    Raises:
        PluginError: The extractor has no layers to choose from, or cannot run.
        FingerprintMismatch: There is a space of that name that was made otherwise.
        KeyboardInterrupt: It was told to stop; what was done is committed.
    """
    wanted = replace(
        request,
        options=replace(request.options, layers="all"),
        levels=("utt",),
        name=request.name or f"{request.plugin}-{STEM}",
        keys=tuple(keys),
    )
    planned = plan(store, wanted)
    (space,) = planned.spaces
    left = [f"{plural(planned.quarantined, 'clip')} in quarantine left out"] if planned.quarantined else []
    if not planned.todo:
        return space, tuple(left)

    def tell(stage: str, done: int, failed: int, total: int) -> None:  # noqa: ARG001 - `Progress`
        told(done + failed, total)

    report = extract(store, planned, how, tell)
    if report.interrupted:
        raise KeyboardInterrupt
    if report.failed:
        left.append(f"{plural(len(report.failed), 'clip')} failed, in quarantine: mer-fs quarantine {space}")
    return space, tuple(left)
