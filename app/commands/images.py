"""`bandlens images`: photographs decoded once, and checked."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...errors import UsageError
from ...untrusted import printable
from ..console import Json, print_rows, progress

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ...probes.images import ImageSet

app = typer.Typer(
    name="images",
    help="Image sets: photographs decoded once to a memory-mapped file of pixels.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Threads; one a processor by default.")]


@app.command()
def pack(
    source: Annotated[Path, typer.Argument(metavar="DIR|TAR", help="A folder tree or tar of JPEG, PNG, WebP files.")],
    out: Annotated[Path, typer.Option("--out", metavar="SET", help="The new folder of the set.")],
    name: Annotated[str | None, typer.Option("--name", help="The set's name; that of SET by default.")] = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="The benchmark it belongs to, if it is none of the kinds.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="Classes: columns path, class. Else by folder name.")
    ] = None,
    decision_space: Annotated[
        str, typer.Option("--decision-space", help="What labels are of: all, imagenet-a, imagenet-r, sixteen.")
    ] = "all",
    clusters: Annotated[
        str, typer.Option("--clusters", metavar="none|folder", help="Which images are not independent.")
    ] = "none",
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, and list them.")] = False,
    workers: Workers = None,
    json: Json = False,
    kind: Annotated[
        str | None,
        typer.Option("--kind", metavar="KIND", help="Check that it is this benchmark: 'bandlens images kinds'."),
    ] = None,
    ground_truth: Annotated[
        Path | None,
        typer.Option("--ground-truth", metavar="FILE", help="Labels of ImageNet images without folders."),
    ] = None,
    real: Annotated[Path | None, typer.Option("--real", metavar="FILE", help="ReaL's real.json.")] = None,
    corruption: Annotated[
        list[str] | None, typer.Option("--corruption", metavar="NAME", help="Only this one; repeatable.")
    ] = None,
    severity: Annotated[
        list[int] | None, typer.Option("--severity", metavar="K", help="Only this one, 1 to 5; repeatable.")
    ] = None,
    per_class: Annotated[
        int | None,
        typer.Option("--per-class", metavar="K", help="The first K images of each class."),
    ] = None,
    limit: Annotated[
        int | None,
        typer.Option("--limit", metavar="N", help="N images, spread over the classes."),
    ] = None,
    partial: Annotated[
        bool,
        typer.Option("--partial", help="What is there, though something is missing."),
    ] = False,
    size: Annotated[int, typer.Option("--size", help="Side of the central crop, in pixels.")] = 224,
    resize: Annotated[int, typer.Option("--resize", help="Shorter side before the crop, in pixels.")] = 256,
    fast: Annotated[bool, typer.Option("--fast", help="Resize faster; a few values differ by 1.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Write no pixels: decode DIR in every run.")] = False,
) -> None:
    """Decode every image once into a new image set.

    Example: bandlens images pack imagenet/val --out sets/imagenet --kind imagenet

    Example: bandlens images pack imagenet-c --out sets/imagenet-c --kind imagenet-c --corruption fog

    Example: bandlens images pack crops.tar --out sets/crops --labels classes.csv --clusters folder
    """
    start = time.perf_counter()
    common: dict[str, Any] = {"size": size, "resize": resize, "name": name, "clusters": clusters, "fast": fast}
    if kind is None:
        _refuse(
            "belongs to a benchmark; name it with --kind",
            ground_truth=ground_truth, real=real, corruption=corruption, severity=severity, per_class=per_class,
            limit=limit, partial=partial,
        )  # fmt: skip
        from ...probes.images import pack as pack_images

        own: dict[str, Any] = {"benchmark": benchmark, "labels": labels, "decision_space": decision_space}
        own |= {"skip_broken": skip_broken, "stream": stream, "workers": workers, "progress": progress, "say": _say}
        _print([pack_images(source, out, **common, **own)], time.perf_counter() - start, json)
        return
    space = None if decision_space == "all" else decision_space
    _refuse(f"is {kind}'s own; leave it out", benchmark=benchmark, labels=labels, decision_space=space)
    from ...probes.image_kinds import Corruptions, How, Labels, Subset, pack_kind
    from ...probes.kinds import find_kind

    images = pack_kind(
        find_kind(kind),
        source,
        out,
        labels=Labels(ground_truth, real),
        corruptions=Corruptions(tuple(corruption or ()), tuple(severity or ())),
        subset=Subset(per_class, limit, partial),
        how=How(skip_broken, stream, workers, progress, _say),
        **common,
    )
    _print(images, time.perf_counter() - start, json)


def _refuse(why: str, **given: object) -> None:
    """UsageError naming the first option that was given."""
    for name, value in given.items():
        if value:
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def _say(text: str) -> None:
    print(text, file=sys.stderr)


@app.command()
def kinds(json: Json = False) -> None:
    """List the benchmarks that `pack --kind` knows.

    Example: bandlens images kinds
    """
    from ...probes.kinds import KINDS, SEVERITIES

    rows = []
    for kind in KINDS.values():
        sets = len(kind.corruptions) * len(SEVERITIES) or 1
        rows.append(
            {
                "kind": kind.name,
                "sets": sets,
                "images": sets * kind.count,
                "classes": len(kind.classes),
                "decision_space": kind.decision_space,
                "labels": " and ".join(["label", *([kind.scheme] if kind.scheme else [])]),
                "GB": round(sets * kind.count * 3 * 224**2 / 1e9, 2),
                "layout": f"<corruption>/<severity>/, where {kind.layout.words}"
                if kind.corruptions
                else kind.layout.words,
            }
        )
    print_rows(rows, as_json=json)


@app.command()
def check(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Read a set again and compare counts, pixels, labels and digest with what was packed.

    Example: bandlens images check sets/imagenet
    """
    from ...probes.images import check as check_images

    start = time.perf_counter()
    images = check_images(image_set, workers=workers, progress=progress)
    _print([images], time.perf_counter() - start, json)


def _print(sets: Sequence[ImageSet], seconds: float, json: bool) -> None:
    rate = sum(images.info.count for images in sets) / seconds
    rows = [_row(images, rate) for images in sets]
    if json:
        broken = [[{"path": path, "reason": reason} for path, reason in images.skipped.items()] for images in sets]
        labelled = [images.info.labelled for images in sets]
        more = zip(labelled, broken, strict=True)
        print_rows([row | {"labelled": a, "skipped": b} for row, (a, b) in zip(rows, more, strict=True)], as_json=True)
        return
    if len(rows) == 1:
        print_rows([{"field": name, "value": value} for name, value in rows[0].items()])
    else:
        print_rows([{name: row[name] for name in ("name", "images", "skipped", "bytes", "digest")} for row in rows])
    for images in sets:
        for path, reason in images.skipped.items():
            print(printable(f"left out {path}: {reason}"), file=sys.stderr)


def _row(images: ImageSet, rate: float) -> dict[str, Any]:
    info = images.info
    return {
        "name": info.name,
        "images": info.count,
        "labelled": "yes" if info.labelled else "no",
        "classes": None if images.labels is None else len(set(images.labels.tolist())),
        "clusters": len(set(images.clusters.tolist())),
        "skipped": len(images.skipped),
        "ignored": images.ignored,
        "bytes": 0 if images.streamed else images.nbytes,
        "images_per_second": round(rate, 1),
        "digest": info.digest,
    }
