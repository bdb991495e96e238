"""`align_encoder`: a visual encoder adapted to the acoustic space, from media, with a head behind it."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from mer_featurestore.errors import FingerprintMismatch
from mer_featurestore.wording import plural
from mer_plugins import adapters
from mer_plugins.adapter_files import PROJECTION
from mer_plugins.contract import ExtractorCard, Options
from mer_plugins.host import find_extractor, make_extractor
from mer_plugins.pipeline import Request, extract, plan
from mer_plugins.transformer import TransformerExtractor
from mer_plugins.tunable import Method, Tunable
from mer_zoo.alignment import aligning
from mer_zoo.alignment.aligning import ALIGNED, Aim, Alignment
from mer_zoo.alignment.fitting import FittedHead, Views, fit_head
from mer_zoo.alignment.head import folded
from mer_zoo.alignment.joint import Joint, Scene, Told, encode
from mer_zoo.alignment.pairs import Pairs, check_enough, choose_pairs, find_space
from mer_zoo.alignment.retrieval import Found
from mer_zoo.alignment.rows import Kept, Rows, standard_of
from mer_zoo.alignment.settings import AlignSettings, EncoderSettings
from mer_zoo.devices import find_device
from mer_zoo.errors import ZooError
from mer_zoo.training import Diverged
from mer_zoo.tuning.media import Media
from mer_zoo.tuning.parts import ONE
from mer_zoo.tuning.selection import read_layers
from mer_zoo.tuning.work import Work, default_folder

if TYPE_CHECKING:
    from mer_featurestore import Store
    from mer_featurestore.spaces import FeatureSpace

MEMORY = 4 << 30
HEAD_ALONE = "head alone"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What was decided before anything heavy is loaded.

    Attributes:
        aim: What to align, on which clips.
        settings: Of the loss, the head and the seed.
        how: Of the encoder.
        options: For the extractor.
        card: The extractor's.
        extractor: Not loaded.
        made_by: What its features are made by, without an adapter.
        method: What is trained in it.
        probe: Run that chose the layers; empty for none.
        acoustic: The space.
        pairs: The clips.
    """

    aim: Aim
    settings: AlignSettings
    how: EncoderSettings
    options: Options
    card: ExtractorCard
    extractor: TransformerExtractor[Any]
    made_by: dict[str, Any]
    method: Method
    probe: str
    acoustic: "FeatureSpace"
    pairs: Pairs

    def document(self) -> dict[str, Any]:
        """Return what has to be the same for an interrupted alignment to go on."""
        aim = {k: v for k, v in asdict(self.aim).items() if k not in ("device", "command", "message")}
        parts = {name: list(getattr(self.pairs, name)) for name in ("train", "valid", "held")}
        return {
            "aim": aim, "settings": self.settings.to_json(), "how": self.how.to_json(),
            "made_by": self.made_by, "acoustic": self.acoustic.fingerprint, "clips": parts,
        }  # fmt: skip


def align_encoder(
    store: "Store",
    aim: Aim,
    settings: AlignSettings | None = None,
    how: EncoderSettings | None = None,
    options: Options | None = None,
    *,
    memory: int = MEMORY,
    workers: int = 0,
    work: Path | None = None,
    restart: bool = False,
    told: Told | None = None,
) -> Alignment:
    """Adapt a visual encoder so that its pooled features, projected, lie in the acoustic space.

    First a head is trained on the base encoder's features, as `align` does on stored ones; then adapter and
    head are trained together from the clips' media against the same frozen acoustic features. The result is
    one adapter of both: `mer-fs extract --plugin VISUAL --adapter NAME` writes the aligned space. With labels
    the spaces of base and adapter are extracted for the labelled clips and probed. Interrupted, the same call
    goes on after the last whole epoch.

    Args:
        store: The store; moves to the commits.
        aim: What to align; `visual` is a plugin.
        settings: Of the loss, the head and the seed.
        how: Of the encoder.
        options: For the extractor: checkpoint, layers that rows are read from, its own options.
        memory: Bytes of decoded clips that may be kept; others are decoded again every epoch.
        workers: Decoding threads; 0 takes one per core, at most 8.
        work: Folder of the checkpoint; None takes one in the user's cache.
        restart: Begin anew, whatever is in that folder.
        told: Told how far it is.

    Raises:
        UnknownName: No such plugin, space, split, layer or option.
        ZooError: The plugin, the clips or the settings cannot be used, or it was begun otherwise.
        PluginError: The encoder cannot be adapted.
        NameTaken: There is an adapter of that name.
        Diverged: The loss became infinite or NaN.
    """
    planned = _plan(store, aim, settings or AlignSettings(), how or EncoderSettings(), options or Options())
    folder = Work(work or default_folder(store, f"align-{aim.name}"))
    with folder.held():
        folder.begin(planned.document(), restart=restart)
        try:
            metrics, history, notices = _train(store, planned, folder, memory, workers, told or _silent)
        except Diverged:
            folder.remove()  # the same again would diverge again
            raise
        finally:
            planned.extractor.close()
        folder.remove()
    if aim.labels:
        metrics["probe"] = _probed(store, planned)
    return aligning.record(store, aim, metrics, history, notices)


def _silent(what: str, done: int, total: int) -> None:
    """Tell nobody."""


def _plan(store: "Store", aim: Aim, settings: AlignSettings, how: EncoderSettings, options: Options) -> Plan:
    card = find_extractor(aim.visual)
    remedy = "mer-fs plugins lists encoders; without --encoder a head is trained on stored features"
    if not card.takes_adapter or card.adapter:
        raise ZooError(f"{card.name} is no base encoder that can be adapted", remedy)
    extractor = make_extractor(card, replace(options, device=str(find_device(aim.device))))
    if not isinstance(extractor, TransformerExtractor):
        raise ZooError(f"{card.name} is no base encoder that can be adapted", remedy)
    method, probe = _method(store, aim.visual, how, extractor)
    acoustic = find_space(store, aim.to)
    aligning.check_aim(store, aim)
    pairs = choose_pairs(
        store, (acoustic,), aim.splits, having=card.modality,
        held_out=aim.held_out, group_by=aim.group_by, seed=settings.seed,
    )  # fmt: skip
    aligning.classes_of(store, aim.judge, pairs.held)
    return Plan(
        aim=aim, settings=settings, how=how, options=options, card=card, extractor=extractor,
        made_by=dict(extractor.made_by()), method=method, probe=probe, acoustic=acoustic, pairs=pairs,
    )  # fmt: skip


def _method(
    store: "Store", plugin: str, how: EncoderSettings, extractor: TransformerExtractor[Any]
) -> tuple[Method, str]:
    layers, probe = None, ""
    if how.layers == "best":
        from mer_zoo.probing import best_band

        band = best_band(store, plugin, checkpoint=extractor.made_by().get("checkpoint"))
        layers, probe = band.layers, band.run
    elif how.layers != "all":
        layers = read_layers(how.layers)
    method = Method(
        name=how.method, layers=layers, rank=how.rank, dropout=how.dropout, targets=how.targets,
        bottleneck=how.bottleneck,
    )  # fmt: skip
    method.blocks(extractor)
    return method, probe


def _train(
    store: "Store", planned: Plan, work: Work, memory: int, workers: int, told: Told
) -> tuple[dict[str, Any], Sequence[dict[str, float]], list[str]]:
    """Train head, then head and encoder; keep the adapter; return metrics, history and notices."""
    how, settings, extractor = planned.how, planned.settings, planned.extractor
    tunable = Tunable.attach(
        extractor, planned.method, seed=settings.seed, quantize=how.quantize,
        gradient_checkpointing=how.gradient_checkpointing,
    )  # fmt: skip
    media, pairs, notices = _read(store, planned, memory, workers, told)
    everything = torch.arange(len(media.clips))
    base = encode(tunable, media, everything, how.batch_size, told)
    standard = standard_of(base[: len(pairs.train)])
    acoustic = Rows(planned.acoustic, [clip.key for clip in media.clips], pairs.train)
    before = aligning.views_of(store, pairs, Kept(base, standard), acoustic)
    first = fit_head(before, settings, device=find_device(planned.aim.device))
    scene = Scene(tunable, media, acoustic, standard, before.train, before.valid, before.content)
    joint = Joint(scene, first, settings, how, work.part(ONE))
    state = joint.run(told)
    rows = encode(tunable, media, everything, how.batch_size, told)
    fitted = joint.fitted(state, rows)
    after = replace(before, visual=Kept(rows, standard))
    found, classes = _measured(store, planned, pairs, (before, first), (after, fitted))
    trained, total = tunable.counts
    metrics = {
        "visual": planned.card.name, "acoustic": planned.acoustic.name, "settings": settings.to_json(),
        "encoder": {**how.to_json(), "trained": trained, "parameters": total},
        **aligning.facts_of(pairs), "best_epoch": state.best, **aligning.score(found, classes),
    }  # fmt: skip
    _keep(store, planned, pairs, tunable, fitted, after, metrics)
    return metrics, state.history, [*notices, *aligning.late(state.best, how.epochs)]


def _read(
    store: "Store", planned: Plan, memory: int, workers: int, told: Told
) -> tuple[Media, Pairs, list[str]]:
    """Decode the clips, and leave out those that cannot be."""
    pairs = planned.pairs
    clips = [store.clips[key] for key in (*pairs.train, *pairs.valid, *pairs.held)]
    media = Media(planned.extractor, clips, memory=memory, workers=workers)
    media.read(lambda done, total: told("decoding", done, total))
    failed = media.reasons
    if not failed:
        return media, pairs, list(pairs.notices)
    media.only(np.array([clip.key not in failed for clip in clips]))
    train, valid, held = (
        tuple(key for key in part if key not in failed) for part in (pairs.train, pairs.valid, pairs.held)
    )
    pairs = replace(pairs, train=train, valid=valid, held=held)
    check_enough(pairs)
    key, reason = next(iter(failed.items()))
    return (
        media,
        pairs,
        [*pairs.notices, f"{plural(len(failed), 'clip')} cannot be read, e.g. {key}: {reason}"],
    )


def _measured(
    store: "Store",
    planned: Plan,
    pairs: Pairs,
    before: tuple[Views, FittedHead],
    after: tuple[Views, FittedHead],
) -> tuple[list[Found], list[str | None] | None]:
    classes = aligning.classes_of(store, planned.aim.judge, pairs.held)
    found = [
        aligning.through(ALIGNED, after[1], after[0], pairs, classes),
        aligning.through(HEAD_ALONE, before[1], before[0], pairs, classes),
        *aligning.without(before[0], pairs, classes, planned.settings.seed),
    ]
    return found, classes


def _keep(
    store: "Store",
    planned: Plan,
    pairs: Pairs,
    tunable: Tunable,
    fitted: FittedHead,
    views: Views,
    metrics: dict[str, Any],
) -> None:
    aim = planned.aim
    projection = folded(fitted.head, views.visual.standard, views.acoustic.standard, fitted.length)
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        tunable.save(folder)
        projection.save(folder / PROJECTION)
        adapters.keep(
            store, aim.name, folder,
            base=planned.extractor.source,
            alignment={"aligned_to": planned.acoustic.name, "keys": [*pairs.train, *pairs.valid]},
            facts={"metrics": metrics, "made_with": planned.made_by},
            parents=[f"runs/{planned.probe}"] if planned.probe else [],
            command=aim.command, message=aim.message,
        )  # fmt: skip


def _probed(store: "Store", planned: Plan) -> dict[str, Any]:
    """Extract the labelled clips with the base and with the adapter, and probe both spaces."""
    aim = planned.aim
    options = replace(planned.options, device=aim.device)
    request = Request(plugin=aim.visual, options=options, split="train")
    try:
        base = plan(store, request)
    except FingerprintMismatch:  # the plugin's own space was made with other options
        base = plan(store, replace(request, name=f"{aim.name}-base"))
    extract(store, base)
    adapted = plan(store, replace(request, name=aim.name, adapter=aim.name))
    extract(store, adapted)
    return aligning.probed(store, aim, base.spaces[0], adapted.spaces[0])
