"""`bandlens images`, `benchmarks` and `probes`: photographs decoded once, and what probes make of them.

The commands that pack build a `Crop`, `Contents`, `Labels` and `How` of their options, as Python gives them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ....core.errors import UsageError, plural, some_of
from ....core.log import log
from ....core.protocol import BENCHMARKS, SIZE
from ....core.records import PERCENTILES, Crop, enlarged_in_words
from ....core.untrusted import printable
from ....probes.images.pack_options import Contents, Draw, How
from ...api import images
from ...api.parameters import File, path_of
from ..command_factory import command
from ..console import progress
from ..tables import Format, Rows, TableFormat, print_lines, print_note, print_rows, print_table
from .models import print_spectrum

if TYPE_CHECKING:
    from ....probes.images.image_set import ImageSet

Size = Annotated[int, typer.Option(help="Side of the central crop, in pixels.")]
Resize = Annotated[str, typer.Option(metavar="N|NxN", help="Shorter side before the crop, in pixels; or both sides.")]
Interpolation = Annotated[str, typer.Option(metavar="bilinear|bicubic", help="Of the resize; antialiased.")]
Stream = Annotated[bool, typer.Option("--stream", help="Write no pixels: decode DIR in every run.")]
Limit = Annotated[int | None, typer.Option(metavar="N", help="N images, drawn from all classes evenly.")]


def pack(
    source: images.ImageSource,
    out: images.NewSet,
    *,
    name: images.SetName = None,
    benchmark: str | None = None,
    labels: images.LabelFile = None,
    attributes: Annotated[File | None, typer.Option(metavar="CSV")] = None,
    decision_space: str = "all",
    clusters: Annotated[str, typer.Option(metavar="none|folder")] = "none",
    limit: Limit = None,
    size: Size = SIZE,
    resize: Resize = "256",
    interpolation: Interpolation = "bilinear",
    levels: Annotated[str | None, typer.Option("--range", metavar="LOW,HIGH|percentiles")] = None,
    stream: Stream = False,
    skip_broken: images.SkipBroken = False,
) -> ImageSet:
    """Decode every image of a folder or archive once, into a new image set.

    The benchmarks of the study have a command of their own, which checks that they are whole: `bandlens benchmarks
    pack`.

    Args:
        benchmark: what the images are, in results; the set's name by default.
        attributes: site, scanner or the like: columns path, name, value.
        decision_space: what labels are of: all, imagenet-a, imagenet-r, sixteen, or multilabel.
        clusters: which images are not independent.
        levels: black and white of pictures of more than 8 bits.
    """
    from ....probes.images.pack import pack

    draw = None if limit is None else Draw(limit)
    return pack(
        source,
        out,
        crop=replace(read_crop(size, resize, interpolation), range=read_range(levels)),
        labels=labels,
        attributes=attributes,
        contents=Contents(name, benchmark, decision_space, clusters, draw),
        how=How(skip_broken, stream, progress=progress, say=log.info),
    )


def pack_benchmark(
    benchmark: Annotated[str, typer.Argument(metavar="NAME")],
    source: Annotated[File, typer.Argument(metavar="DIR|TAR")],
    out: images.NewSet,
    *,
    name: images.SetName = None,
    ground_truth: Annotated[File | None, typer.Option(metavar="FILE")] = None,
    real: Annotated[File | None, typer.Option(metavar="FILE")] = None,
    only: Annotated[Sequence[str], typer.Option(metavar="NAME|K")] = (),
    limit: Limit = None,
    partial: Annotated[bool, typer.Option("--partial")] = False,
    size: Size = SIZE,
    resize: Resize = "256",
    interpolation: Interpolation = "bilinear",
    stream: Stream = False,
    skip_broken: images.SkipBroken = False,
) -> list[ImageSet]:
    """Check that a folder holds a benchmark, and pack it: whole, or the part that is asked for.

    Args:
        benchmark: its name, as `list` shows it.
        source: the benchmark's folder, or an archive of it.
        ground_truth: labels of ImageNet images without folders.
        real: the file real.json of ReaL.
        only: this corruption alone, or this severity from 1 to 5; repeatable.
        partial: what is there, though something is missing.
    """
    from ....probes.benchmarks.layouts import Labels
    from ....probes.benchmarks.sets import Subset, pack_benchmark

    corruptions = tuple(word for word in only if not word.isdecimal())
    severities = tuple(int(word) for word in only if word.isdecimal())
    fixed = benchmark in BENCHMARKS and BENCHMARKS[benchmark].fixed
    return pack_benchmark(
        benchmark,
        source,
        out,
        name=name,
        crop=read_crop(size, resize, interpolation, fixed),
        labels=Labels(path_of(ground_truth), path_of(real)),
        subset=Subset(limit, partial, corruptions, severities),
        how=How(skip_broken, stream, progress=progress, say=log.info),
    )


def read_crop(size: int, resize: str, interpolation: str, fixed: bool = False) -> Crop:
    """The crop of the options, of which --resize is 256 or 384x384; UsageError for anything else.

    Nothing of a `fixed` benchmark is resized, whatever --resize says.
    """
    side, times, second = resize.partition("x")
    if not (side.isdecimal() and len(side) < 6 and (second == side if times else True)):
        raise UsageError(f"cannot read --resize {resize}; write 256 for the shorter side, or 256x256, up to 99,999")
    return Crop(size, size if fixed else int(side), interpolation=interpolation, squash=bool(times))


def read_range(text: str | None) -> tuple[float, float] | str | None:
    """The range of --range: two numbers, or `percentiles`; UsageError for anything else."""
    if text is None or text == PERCENTILES:
        return text
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise UsageError(f"cannot read --range {text}; write LOW,HIGH, or {PERCENTILES}") from None
    return low, high


def print_sets(sets: ImageSet | Sequence[ImageSet], table_format: TableFormat = Format.table) -> None:
    """Print image sets, and on stderr what was left out."""
    sets = sets if isinstance(sets, Sequence) else [sets]
    join_names = ", ".join if table_format.is_for_programs else some_of
    rows = [_row(packed, join_names) for packed in sets]
    if table_format.is_for_programs:
        for row, packed in zip(rows, sets, strict=True):
            row["labelled"] = packed.info.labelled
            row["skipped"] = [{"path": path, "reason": reason} for path, reason in packed.skipped.items()]
        print_rows(rows, table_format)
        return
    if len(rows) == 1 and table_format == Format.table:
        print_lines(rows)
    else:
        columns = ("name", "images", "skipped", "bytes", "digest")
        print_rows([{name: row[name] for name in columns} for row in rows], table_format)
    for packed in sets:
        if packed.own_cycles:
            log.info(enlarged_in_words(packed.info.name, packed.own_cycles))
        for path, reason in packed.skipped.items():
            log.info(printable(f"left out {path}: {reason}"))


def _row(packed: ImageSet, join_names: Callable[[list[str]], str]) -> dict[str, Any]:
    info = packed.info
    return {
        "name": info.name,
        "images": info.count,
        "labelled": "yes" if info.labelled else "no",
        "classes": None if packed.labels is None else len(set(packed.labels.tolist())),
        **({} if packed.class_names is None else {"class_names": join_names(packed.class_names)}),
        "clusters": len(set(packed.clusters.tolist())),
        "skipped": len(packed.skipped),
        "ignored": packed.ignored,
        **({} if packed.own_cycles is None else {"own_cycles": round(packed.own_cycles, 1)}),
        "preprocessing": info.preprocessing,
        "bytes": 0 if packed.streamed else packed.nbytes,
        "digest": info.digest,
    }


def print_wall(counts: tuple[int, int], out: Path) -> None:
    """Example: bandlens images show photographs.set --query "FROM flip WHERE cutoff = 0.5" --out wall.png"""
    tiles, rows = counts
    rest = f", the first of {rows:,} rows" if tiles < rows else ""
    print(f"{out}: {plural(tiles, 'image')}{rest}")


def print_conditions(rows: Rows, study: Path | None, table_format: TableFormat = Format.table) -> None:
    """Example: bandlens probes list --format csv"""
    if table_format != Format.table:
        print_rows(rows, table_format)
        return
    firsts = {row["probe"]: row for row in reversed(rows)}
    print_rows([row if row is firsts[row["probe"]] else {**row, "what": ""} for row in rows])
    if study is None:
        from ....probes.grid import PROBES

        print_note(f"more probes for a study: {', '.join(name for name in PROBES if name not in firsts)}", table_format)


def print_sheet(counts: tuple[int, int], photograph: Path, out: Path) -> None:
    """Example: bandlens probes preview photo.jpg --out sheet.png"""
    drawings, conditions = counts
    part = "" if drawings == conditions else f"{drawings} of "
    print(f"{out}: {photograph.name} under {part}{conditions} conditions")


COMMANDS: dict[str, Any] = {
    "images": {
        "pack": command(
            pack,
            print_sets,
            "Examples: bandlens images pack photographs --out sets/photographs --labels folders, bandlens images pack "
            "crops.tar --out sets/crops --labels classes.csv --clusters folder",
        ),
        "add": command(images.add_images, print_sets, "Example: bandlens images add photos.set photographs"),
        "remove": command(images.remove_images, print_sets, "Example: bandlens images remove photos.set coffee.png"),
        "frequency-conflict": command(
            images.pack_frequency_conflict,
            print_sets,
            "Example: bandlens images frequency-conflict sets/colour --cutoff 0.1 --out sets/frequency-conflict",
        ),
        "attributes": command(
            images.add_attributes, print_table, "Example: bandlens images attributes sets/photographs sites.csv"
        ),
        "check": command(images.check_images, print_sets, "Example: bandlens images check sets/imagenet"),
        "show": command(images.draw_images, print_wall),
        "spectrum": command(images.spectrum, print_spectrum, "Example: bandlens images spectrum sets/train sets/test"),
    },
    "benchmarks": {
        "list": command(images.list_benchmarks, print_table, "Example: bandlens benchmarks list"),
        "pack": command(
            pack_benchmark,
            print_sets,
            "Examples: bandlens benchmarks pack imagenet imagenet/val --out sets/imagenet, bandlens benchmarks pack "
            "imagenet-c imagenet-c --out sets/imagenet-c --only fog",
        ),
    },
    "probes": {
        "list": command(images.list_conditions, print_conditions),
        "preview": command(images.preview, print_sheet),
    },
}
