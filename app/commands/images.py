"""`bandlens images`: photographs decoded once, and checked."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.errors import UsageError, plural
from ...core.protocol import SIZE, SPACE_CLASSES
from ...core.records import MULTILABEL, PERCENTILES, Crop, enlarged_in_words
from ...core.untrusted import printable
from ...probes.images.options import Contents, Draw, How
from .. import api
from ..console import TableFormat, log, print_lines, print_rows, progress
from ..formats import Format
from .options import Database, ProbesOfStudy
from .spectrum import spectrum

if TYPE_CHECKING:
    from ...probes.images.image_set import ImageSet

app = typer.Typer(
    name="images",
    help="Image sets: photographs decoded once to a memory-mapped file of pixels.",
    no_args_is_help=True,
    rich_markup_mode="rich",
)

Source = Annotated[Path, typer.Argument(metavar="DIR|TAR", help="Folder tree or tar of JPEG, PNG, TIFF, WebP files.")]
ChangedSet = Annotated[Path, typer.Argument(metavar="SET", help="The folder of the set, which is replaced.")]
LabelsOption = Annotated[
    Path | None,
    typer.Option(
        "--labels",
        metavar="folders|CSV",
        help="Classes: the folders at the top, or columns path, class. By default by WordNet ids.",
    ),
]
Out = Annotated[Path, typer.Option("--out", metavar="SET", help="The new folder of the set.")]
Name = Annotated[str | None, typer.Option("--name", help="The set's name; that of SET by default.")]
Size = Annotated[int, typer.Option("--size", help="Side of the central crop, in pixels.")]
Resize = Annotated[
    str, typer.Option("--resize", metavar="N|NxN", help="Shorter side before the crop, in pixels; or both sides.")
]
Interpolation = Annotated[
    str, typer.Option("--interpolation", metavar="bilinear|bicubic", help="Of the resize; antialiased.")
]
Range = Annotated[
    str | None,
    typer.Option("--range", metavar="LOW,HIGH|percentiles", help="Black and white of pictures of more than 8 bits."),
]
Clusters = Annotated[str, typer.Option("--clusters", metavar="none|folder", help="Which images are not independent.")]
Fast = Annotated[bool, typer.Option("--fast", help="Resize faster; a few values differ by 1.")]
Stream = Annotated[bool, typer.Option("--stream", help="Write no pixels: decode DIR in every run.")]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, and list them.")]
Workers = Annotated[int | None, typer.Option("--workers", metavar="N", help="Threads; one a processor by default.")]


@app.command()
def pack(
    source: Source,
    out: Out,
    name: Name = None,
    benchmark: Annotated[
        str | None, typer.Option("--benchmark", help="What the images are, in results; the set's name by default.")
    ] = None,
    labels: LabelsOption = None,
    attributes: Annotated[
        Path | None,
        typer.Option("--attributes", metavar="CSV", help="Site, scanner or the like: columns path, name, value."),
    ] = None,
    decision_space: Annotated[
        str,
        typer.Option("--decision-space", help=f"What labels are of: {', '.join(('all', *SPACE_CLASSES, MULTILABEL))}."),
    ] = "all",
    clusters: Clusters = "none",
    limit: Annotated[
        int | None, typer.Option("--limit", metavar="N", help="N images, drawn from all classes evenly.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="What --limit draws by.")] = 0,
    size: Size = SIZE,
    resize: Resize = "256",
    interpolation: Interpolation = "bilinear",
    levels: Range = None,
    fast: Fast = False,
    stream: Stream = False,
    skip_broken: SkipBroken = False,
    workers: Workers = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Decode every image of a folder or archive once, into a new image set.

    The benchmarks of the study have a command of their own, which checks that they are whole: `bandlens benchmarks
    pack`.

    Example: bandlens images pack photographs --out sets/photographs --labels folders

    Example: bandlens images pack crops.tar --out sets/crops --labels classes.csv --clusters folder
    """
    pack_images = partial(
        api.images.pack,
        source,
        out,
        crop=replace(read_crop(size, resize, interpolation, fast), range=read_range(levels)),
        labels=labels,
        attributes=attributes,
        contents=Contents(name, benchmark, decision_space, clusters, draw=None if limit is None else Draw(limit, seed)),
        how=How(skip_broken, stream, workers, progress, log.info),
    )
    print_sets(lambda: [pack_images()], table_format)


@app.command()
def add(
    image_set: ChangedSet,
    source: Source,
    labels: LabelsOption = None,
    skip_broken: SkipBroken = False,
    workers: Workers = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Add the images that a set does not have; the next run computes their predictions alone.

    Example: bandlens images add photos.set photographs
    """
    how = How(skip_broken, workers=workers, progress=progress, say=log.info)
    print_sets(lambda: [api.images.add_images(image_set, source, labels=labels, how=how)], table_format)


@app.command()
def remove(
    image_set: ChangedSet,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Paths of images, as index.parquet has them.")],
    table_format: TableFormat = Format.table,
) -> None:
    """Remove images from a set; the next run computes nothing again.

    Example: bandlens images remove photos.set coffee.png
    """
    print_sets(lambda: [api.images.remove_images(image_set, names)], table_format)


@app.command("frequency-conflict")
def frequency_conflict(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set with labels.")],
    out: Out,
    cutoff: Annotated[
        float, typer.Option("--cutoff", metavar="C", help="Low are frequencies up to C x size / 2 cycles per image.")
    ],
    seed: Annotated[int, typer.Option("--seed", min=0, help="What the pairs are drawn by.")] = 0,
    name: Name = None,
    workers: Workers = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Make a set whose images have the low frequencies of one image and the high ones of another.

    Example: bandlens images frequency-conflict sets/colour --cutoff 0.1 --out sets/frequency-conflict
    """
    how = How(workers=workers, progress=progress, say=log.info)
    conflict = partial(api.images.pack_frequency_conflict, image_set, out, cutoff=cutoff, seed=seed, name=name, how=how)
    print_sets(lambda: [conflict()], table_format)


@app.command("attributes")
def add_attributes(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    file: Annotated[Path, typer.Argument(metavar="CSV", help="Columns path, name, value.")],
    table_format: TableFormat = Format.table,
) -> None:
    """Add attributes of images to a set: site or scanner, say, by which studies that run again are measured.

    Example: bandlens images attributes sets/photographs sites.csv
    """
    counts = api.images.add_attributes(image_set, file)
    rows = [
        {"name": name, "value": value, "images": count}
        for name, values in counts.items()
        for value, count in values.items()
    ]
    print_rows(rows, table_format)


@app.command()
def check(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    workers: Workers = None,
    table_format: TableFormat = Format.table,
) -> None:
    """Read a set again, and compare it with what was packed: counts, pixels, labels and digest.

    Example: bandlens images check sets/imagenet
    """
    print_sets(lambda: [api.images.check_images(image_set, workers=workers, progress=progress)], table_format)


@app.command()
def show(
    image_set: Annotated[Path, typer.Argument(metavar="SET", help="The folder of a packed set.")],
    query: Annotated[
        str, typer.Option("--query", help="A SELECT with image_index or path: which images, and captions.")
    ],
    out: Annotated[Path, typer.Option("--out", metavar="PNG", help="The picture.")],
    db: Database = Path("results.duckdb"),
    study: ProbesOfStudy = None,
) -> None:
    """Draw the images that a query finds as a wall: perturbed again where it has probe and parameters.

    Example: bandlens images show photographs.set --query "FROM flip WHERE cutoff = 0.5" --out wall.png
    """
    count, rows = api.images.draw_images(image_set, query, out, db, study=study)
    more = f", the first of {rows:,} rows" if count < rows else ""
    print(f"{out}: {plural(count, 'image')}{more}")


app.command()(spectrum)


def read_crop(size: int, resize: str, interpolation: str, fast: bool, fixed: bool = False) -> Crop:
    """The crop of the options, of which --resize is 256 or 384x384; UsageError for anything else.

    Nothing of a `fixed` benchmark is resized, whatever --resize says.
    """
    side, times, second = resize.partition("x")
    if not (side.isdecimal() and len(side) < 6 and (second == side if times else True)):
        raise UsageError(f"cannot read --resize {resize}; write 256 for the shorter side, or 256x256 for both sides")
    return Crop(size, size if fixed else int(side), fast=fast, interpolation=interpolation, squash=bool(times))


def read_range(text: str | None) -> tuple[float, float] | str | None:
    """The range of --range: two numbers, or `percentiles`; UsageError for anything else."""
    if text is None or text == PERCENTILES:
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"cannot read --range {text}; write LOW,HIGH, or {PERCENTILES}") from None
    return low, high


def print_sets(make: Callable[[], Sequence[ImageSet]], table_format: Format) -> None:
    """Pack or check image sets; print them with the rate, and on stderr what was left out."""
    start = time.perf_counter()
    sets = make()
    rate = sum(images.info.count for images in sets) / (time.perf_counter() - start)
    rows = [_row(images, rate) for images in sets]
    if table_format.is_for_programs:
        broken = [[{"path": path, "reason": reason} for path, reason in images.skipped.items()] for images in sets]
        labelled = [images.info.labelled for images in sets]
        details = zip(rows, labelled, broken, strict=True)
        print_rows([row | {"labelled": known, "skipped": skipped} for row, known, skipped in details], table_format)
        return
    if len(rows) == 1 and table_format == Format.table:
        print_lines(rows)
    else:
        columns = ("name", "images", "skipped", "bytes", "digest")
        print_rows([{name: row[name] for name in columns} for row in rows], table_format)
    for images in sets:
        if images.own_cycles:
            log.info(enlarged_in_words(images.info.name, images.own_cycles))
        for path, reason in images.skipped.items():
            log.info(printable(f"left out {path}: {reason}"))


def _row(images: ImageSet, rate: float) -> dict[str, Any]:
    info = images.info
    return {
        "name": info.name,
        "images": info.count,
        "labelled": "yes" if info.labelled else "no",
        "classes": None if images.labels is None else len(set(images.labels.tolist())),
        **({} if images.class_names is None else {"class_names": ", ".join(images.class_names)}),
        "clusters": len(set(images.clusters.tolist())),
        "skipped": len(images.skipped),
        "ignored": images.ignored,
        **({} if images.own_cycles is None else {"own_cycles": round(images.own_cycles, 1)}),
        "preprocessing": images.info.preprocessing,
        "bytes": 0 if images.streamed else images.nbytes,
        "images_per_second": round(rate, 1),
        "digest": info.digest,
    }
