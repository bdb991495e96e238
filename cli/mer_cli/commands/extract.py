"""`mer-fs extract`."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mer_cli.app import command, command_line, emit, open_store, store_option
from mer_cli.params import Pair, names_option
from mer_cli.plugin_options import no_plugin_option, warn_of_broken, without_model
from mer_cli.progress import progress
from mer_cli.zoo_options import print_notices
from mer_featurestore.wording import plural

if TYPE_CHECKING:
    from mer_plugins.pipeline import ExtractReport, How, Plan, Request

INTERRUPTED = 130


@command("extract")
@store_option
@click.option(
    "--plugin",
    required=True,
    metavar="NAME",
    help="The extractor; see mer-fs plugins. NAME:PATH says --model PATH too.",
)
@click.option("--model", metavar="PATH|ID", help="Checkpoint: a local folder or a hub id.")
@click.option("--revision", metavar="REV", help="Revision of a hub checkpoint.")
@click.option(
    "--adapter", default="", metavar="NAME|PATH", help="LoRA or the like to put in; mer-fs adapters."
)
@click.option(
    "--others",
    type=click.Choice(["mean", "all"]),
    help="With an adapter of folds: what clips in no fold get, the mean of the folds' features or those of "
    "the weights trained on all data (the default where there are such).",
)
@click.option("--trust-remote-code", is_flag=True, help="Run the code beside the checkpoint's weights.")
@click.option("--layers", metavar="WHICH", help="last, last4, all, k, i-j (summed) or weighted:w0,w1,…")
@names_option("--level", "levels", "utt, frame or utt,frame (one pass for both).")
@click.option("--as", "name", default="", metavar="STEM", help="Name of the spaces: STEM-UTT, STEM-FRA.")
@click.option(
    "--option", "extra", type=Pair("name=value", "fps=5"), multiple=True, help="An option of the plugin."
)
@click.option("--no-face-crop", is_flag=True, help="Whole frames: the same as --option face=none.")
@names_option("--split", "split", "Clips of these splits only.")
@click.option("--keys", metavar="A,B|@FILE", help="These clips only: keys, or a file with a key a line.")
@click.option(
    "--batch",
    type=click.FloatRange(min=0, min_open=True),
    metavar="N",
    help="Most clips (or other cost) in a batch.",
)
@click.option("--workers", type=click.IntRange(min=0), default=0, help="Decoding threads; 0: one per core.")
@click.option("--commit-every", type=click.IntRange(min=1), default=1000, show_default=True, metavar="N")
@click.option("--retry-failed", is_flag=True, help="Take up clips in quarantine as well.")
@click.option("--strict", is_flag=True, help="Stop at the first clip that fails.")
@click.option("--dry-run", is_flag=True, help="Show the plan and do nothing.")
@click.option("--backend", type=click.Choice(["zarr", "hdf5"]), help="Format of new fragments.")
@click.option("--codec", metavar="NAME", help="Compression of new fragments; none by default.")
@click.option("--dtype", type=click.Choice(["float16", "float32"]), help="Stored type.")
@click.option("--frame-hz", type=float, metavar="HZ", help="Average frames down to this many a second.")
@click.option("--device", default="auto", show_default=True, metavar="DEVICE", help="cpu, cuda, cuda:1 …")
@names_option("--devices", "devices", "A process per device, e.g. cuda:0,cuda:1.")
@click.option("--procs", type=click.IntRange(min=1), metavar="N", help="N processes that share the CPU.")
@click.option(
    "--ray", metavar="ADDRESS", help="On a Ray cluster: auto, HOST:PORT, ray://… or local to start one here."
)
@no_plugin_option
def extract(store_url: str, dry_run: bool, **said: Any) -> None:
    """Turn clips into features; run it again after any interruption and it does the rest."""
    from mer_plugins import cluster, pipeline, workers

    warn_of_broken()
    said["plugin"] = without_model(said["plugin"], said)
    store, devices, request = open_store(store_url), _devices(said), _request(said)
    if dry_run:
        planned = pipeline.plan(store, request)
        print_notices(planned.notices)
        emit(planned.as_json(), lambda: _show_plan(planned))
        return
    with progress(f"extracting {said['plugin']}") as tell:

        def told(stage: str, done: int, failed: int, total: int) -> None:  # noqa: ARG001 - `Progress`
            tell(done + failed, total)

        planned = pipeline.plan(store, request)
        print_notices(planned.notices)
        if said["ray"]:
            report = cluster.extract_on_ray(store, request, said["ray"], _how(said), told, planned)
        elif devices:
            report = workers.extract_in_processes(store, request, devices, _how(said), told, planned)
        else:
            report = pipeline.extract(store, planned, _how(said), told)
    emit(report.as_json(), lambda: _show_report(report))
    if report.interrupted:
        raise SystemExit(INTERRUPTED)
    if report.failed and not report.done:
        raise SystemExit(1)  # what needs these features should not be tried


def _request(said: dict[str, Any]) -> "Request":
    from mer_plugins.contract import Options
    from mer_plugins.pipeline import Request

    names = ("model", "revision", "layers", "device", "others", "trust_remote_code")
    return Request(
        plugin=said["plugin"],
        options=Options(**{name: said[name] for name in names}, extra=_extra(said)),
        adapter=said["adapter"],
        levels=said["levels"] or (),
        name=said["name"],
        dtype=said["dtype"],
        frame_hz=said["frame_hz"],
        split=said["split"],
        keys=_keys(said["keys"]),
        retry_failed=said["retry_failed"],
    )


def _extra(said: dict[str, Any]) -> dict[str, str]:
    extra = dict(said["extra"])
    if said["no_face_crop"] and extra.setdefault("face", "none") != "none":
        raise click.UsageError(f"--no-face-crop and --option face={extra['face']} contradict each other")
    return extra


def _devices(said: dict[str, Any]) -> tuple[str, ...]:
    if sum(bool(said[name]) for name in ("procs", "devices", "ray")) > 1:
        raise click.UsageError(
            "--procs shares the CPU, --devices names devices, --ray leaves both to a cluster: say one of them"
        )
    return said["devices"] or ("cpu",) * (said["procs"] or 0)


def _how(said: dict[str, Any]) -> "How":
    from mer_plugins.pipeline import How

    names = ("batch", "workers", "commit_every", "strict", "backend", "codec")
    return How(**{name: said[name] for name in names}, command=command_line())


def _keys(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    # Spreadsheets put a byte order mark in front.
    lines = Path(text[1:]).read_text("utf-8-sig").splitlines() if text.startswith("@") else text.split(",")
    return tuple(key.strip() for key in lines if key.strip())


def _show_plan(planned: "Plan") -> None:
    todo = f"{len(planned.todo)} of {plural(planned.selected, 'clip')} to do"
    click.echo(todo + _rest(planned.done, planned.quarantined))
    if planned.without:
        click.echo(f"{plural(planned.without, 'clip')} without {planned.card.modality}")
    for spec, size in zip(planned.specs, planned.estimate().values(), strict=True):
        row = " x ".join(map(str, spec.row_shape))
        shown = "size not known" if size is None else f"about {size / 1e6:.1f} MB"
        click.echo(f"{spec.name}: rows of {row} {spec.dtype}, {shown}, fingerprint {spec.fingerprint[:12]}")


def _show_report(report: "ExtractReport") -> None:
    spaces = ", ".join(report.spaces)
    if not report.planned:
        there = f"{plural(report.skipped, 'clip')} in {spaces} already"
        click.echo(f"Nothing to do: {there}{_rest(0, report.left_alone)}.")
        return
    click.echo(f"{plural(report.done, 'clip')} into {spaces}{_rest(report.skipped, report.left_alone)}.")
    if report.failed:
        click.echo(f"{len(report.failed)} failed and are in quarantine: mer-fs quarantine")
    if report.done:
        stages = ", ".join(
            f"{name} {report.seconds.get(name, 0):.1f} s" for name in ("decode", "encode", "write")
        )
        speed = f"{report.clips_per_second:.1f} clips/s"
        speed += f", {report.realtime_factor:.1f} x real time" if report.realtime_factor else ""
        click.echo(f"{speed}; {stages}; bottleneck: {report.bottleneck}")
    if report.interrupted:
        click.echo("Interrupted; what was done is committed. The same command does the rest.", err=True)


def _rest(done: int, quarantined: int) -> str:
    parts = [f"{done} there already"] if done else []
    parts += [f"{quarantined} in quarantine, --retry-failed tries them again"] if quarantined else []
    return f" ({'; '.join(parts)})" if parts else ""
