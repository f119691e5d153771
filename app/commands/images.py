"""`bandlens images`: photographs decoded once, and checked."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..console import Json, print_rows, progress

if TYPE_CHECKING:
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
    benchmark: Annotated[str | None, typer.Option("--benchmark", help="The benchmark it belongs to.")] = None,
    labels: Annotated[
        Path | None, typer.Option("--labels", metavar="CSV", help="Classes: columns path, class. Else by folder name.")
    ] = None,
    clusters: Annotated[
        str, typer.Option("--clusters", metavar="none|folder", help="Which images are not independent.")
    ] = "none",
    size: Annotated[int, typer.Option("--size", help="Side of the central crop, in pixels.")] = 224,
    resize: Annotated[int, typer.Option("--resize", help="Shorter side before the crop, in pixels.")] = 256,
    skip_broken: Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, and list them.")] = False,
    workers: Workers = None,
    json: Json = False,
) -> None:
    """Decode every image once into a new image set.

    Example: bandlens images pack imagenet/val --out sets/imagenet

    Example: bandlens images pack crops.tar --out sets/crops --labels classes.csv --clusters folder

    Example: bandlens images pack imagenet-c/fog/3 --out sets/fog3 --benchmark imagenet-c --resize 224
    """
    from ...probes.images import pack as pack_images

    start = time.perf_counter()
    images = pack_images(
        source,
        out,
        size=size,
        resize=resize,
        name=name,
        benchmark=benchmark,
        labels=labels,
        clusters=clusters,
        skip_broken=skip_broken,
        workers=workers,
        progress=progress,
    )
    _print(images, time.perf_counter() - start, json)


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
    _print(images, time.perf_counter() - start, json)


def _print(images: ImageSet, seconds: float, json: bool) -> None:
    count = images.info.count
    row: dict[str, Any] = {
        "name": images.info.name,
        "images": count,
        "labelled": "yes" if images.info.labelled else "no",
        "classes": None if images.labels is None else len(set(images.labels.tolist())),
        "clusters": len(set(images.clusters.tolist())),
        "skipped": len(images.skipped),
        "ignored": images.ignored,
        "bytes": images.pixels.nbytes,
        "images_per_second": round(count / seconds, 1),
        "digest": images.info.digest,
    }
    if json:
        broken = [{"path": path, "reason": reason} for path, reason in images.skipped.items()]
        print_rows([row | {"labelled": images.info.labelled, "skipped": broken}], as_json=True)
        return
    print_rows([{"field": name, "value": value} for name, value in row.items()])
    for path, reason in images.skipped.items():
        print(f"left out {path}: {reason}", file=sys.stderr)
