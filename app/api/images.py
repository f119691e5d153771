"""Image sets: packed, checked, drawn; and what probes make of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ...core.jobs import Progress, silent
from ...core.log import log
from ...core.protocol import BENCHMARKS, SIZE
from ...probes.images.pack_options import How
from .parameters import RESULTS, Database, File, PackedSet, StudyOfProbes, listed, path_of, reading
from .results import open as open_results

if TYPE_CHECKING:
    from ...probes.images.image_set import ImageSet
    from .spectrum import Spectrum


ImageSource = Annotated[
    File, typer.Argument(metavar="DIR|TAR", help="Folder tree or tar of JPEG, PNG, TIFF, WebP files.")
]
LabelFile = Annotated[
    File | None,
    typer.Option(
        metavar="folders|CSV",
        help="Classes: the folders at the top, or columns path, class. By default by WordNet ids.",
    ),
]
SkipBroken = Annotated[bool, typer.Option("--skip-broken", help="Leave out broken files, and list them.")]
NewSet = Annotated[File, typer.Option("--out", metavar="SET", help="The new folder of the set.")]
SetName = Annotated[str | None, typer.Option("--name", help="The set's name; that of SET by default.")]
StudyInstead = Annotated[
    File | None, typer.Option(metavar="FILE", help="The probes of this study instead of the published grid.")
]


def add_attributes(
    image_set: PackedSet, file: Annotated[File, typer.Argument(metavar="CSV")]
) -> list[dict[str, str | int]]:
    """Add attributes of images to a set: site or scanner, say, by which studies that run again are measured.

    Args:
        image_set: the folder of a packed set, whose digest stays.
        file: columns path, name, value. An attribute that the set has already is replaced.

    Returns a row for each name and value of all attributes of the set, with the number of images.

    Raises ImageSetError, which names a row that is of no image, repeats another, or is not whole.
    """
    from ...probes.images.image_set import open_image_set
    from ...probes.images.labels import add_attributes

    images = open_image_set(Path(image_set))
    slices = add_attributes(images.folder, images.attributes, images.paths, Path(file))
    return [{"name": name, "value": value, "images": len(rows)} for (name, value), rows in slices.items()]


ChangedSet = Annotated[
    File, typer.Argument(metavar="SET", help="The folder of the set, which is replaced when it is whole.")
]


def add_images(
    image_set: ChangedSet,
    source: ImageSource,
    *,
    labels: LabelFile = None,
    skip_broken: SkipBroken = False,
    progress: Progress = silent,
) -> ImageSet:
    """Add the images that a set does not have by their paths; the next run computes their predictions alone.

    Images that the set has stay as they are. Classes with new names get the next numbers. A streamed set takes the
    folder that it is decoded from.

    Raises UsageError where nothing is new, and for labels that do not fit those of the set; ImageSetError for broken
    images, and for a set that packing a folder alone does not make. After an error the set is as it was.
    """
    from ...probes.images.edit import add_images

    how = How(skip_broken, progress=progress, say=log.info)
    return add_images(Path(image_set), Path(source), path_of(labels), how)


def remove_images(image_set: ChangedSet, names: Annotated[Sequence[str], typer.Argument(metavar="NAME")]) -> ImageSet:
    """Remove images from a set; the next run computes nothing again.

    Args:
        names: paths of images, as index.parquet has them.

    Raises UnknownName for one that the set does not have, UsageError where none would be left. After an error the set
    is as it was.
    """
    from ...probes.images.edit import remove_images

    return remove_images(Path(image_set), listed(names))


def list_benchmarks() -> list[dict[str, Any]]:
    """List the benchmarks that `pack` knows: their sets, images, classes, labels, size and layout."""
    from ...probes.benchmarks.layouts import LAYOUTS, classes_of

    rows = []
    for benchmark in BENCHMARKS.values():
        layout, sets = LAYOUTS[benchmark.name], len(benchmark.places)
        rows.append(
            {
                "benchmark": benchmark.name,
                "sets": sets,
                "images": sets * benchmark.count,
                "classes": len(classes_of(benchmark, layout)),
                "decision_space": benchmark.decision_space,
                "labels": " and ".join(["label", *([benchmark.scheme] if benchmark.scheme else [])]),
                "GB": round(sets * benchmark.count * 3 * SIZE**2 / 1e9, 2),
                "layout": f"<corruption>/<severity>/, where {layout.words}" if benchmark.corruptions else layout.words,
            }
        )
    return rows


def pack_frequency_conflict(
    image_set: PackedSet,
    out: NewSet,
    *,
    cutoff: Annotated[float, typer.Option(metavar="C")],
    seed: Annotated[int, typer.Option(min=0)] = 0,
    name: SetName = None,
    progress: Progress = silent,
) -> ImageSet:
    """Make a set whose images have the low frequencies of one image and the high ones of an image of another class.

    Args:
        image_set: the folder of a packed set with labels.
        cutoff: low are frequencies up to C x size / 2 cycles per image, with C in (0, 1).
        seed: what the pairs are drawn by.

    Raises UsageError for a cutoff that leaves one of the two without frequencies, ImageSetError for images without
    labels or with too many of one class. After an error there is no `out`.
    """
    from ...probes.benchmarks.frequency_conflict import pack_frequency_conflict
    from ...probes.images.image_set import open_image_set

    images, how = open_image_set(Path(image_set)), How(progress=progress, say=log.info)
    return pack_frequency_conflict(images, Path(out), cutoff=cutoff, seed=seed, name=name, how=how)


def check_images(image_set: PackedSet, *, progress: Progress = silent) -> ImageSet:
    """Read a set again, and compare it with what was packed: counts, pixels, labels and digest.

    Raises ImageSetError, which names the first image that differs.
    """
    from ...probes.images.image_set import check_image_set

    return check_image_set(Path(image_set), progress=progress)


def draw_images(
    image_set: PackedSet,
    query: Annotated[str, typer.Option()],
    out: Annotated[File, typer.Option(metavar="PNG")],
    db: Database = RESULTS,
    *,
    study: StudyOfProbes = None,
) -> tuple[int, int]:
    """Draw the images that a query finds as a wall: perturbed again where it has probe and parameters.

    Args:
        query: a SELECT with image_index or path: which images, and captions.
        out: the picture.

    Returns the number of tiles, and that of the rows that the query has.
    """
    from ...probes.images.image_set import open_image_set
    from ..study.file import grid_of
    from ..study.set_lookup import Conditions
    from .image_grid import draw_wall

    images = open_image_set(Path(image_set))
    conditions = Conditions(None if study is None else grid_of(Path(study)))
    with open_results(db) as results:
        rows = results.sql(query, timeout=60)
    with reading(db) as store:
        return draw_wall(store, rows, images, conditions, Path(out)), len(rows)


def spectrum(
    image_set: PackedSet,
    second: Annotated[File | None, typer.Argument()] = None,
    *,
    progress: Progress = silent,
) -> Spectrum:
    """Measure the power of a set's images by octave and direction; `exponent` is that of the power law.

    Args:
        second: a set to compare it with.

    Raises UsageError for sets of one cluster, without waves, of two sizes, or of images below 16 pixels.
    """
    from ...probes.images.image_set import open_image_set
    from .spectrum import measure_spectra

    sets = [open_image_set(Path(folder)) for folder in (image_set, second) if folder is not None]
    return measure_spectra(sets, progress)


def list_conditions(study: StudyInstead = None) -> list[dict[str, str]]:
    """List the conditions of the published grid, or of a study with its attacks.

    Returns rows of probe, parameters, and what it does.
    """
    from ..study.file import grid_of

    grid = grid_of(path_of(study))
    return [
        {"probe": condition.probe, "parameters": condition.facts.setting, "what": grid.family(condition).summary}
        for condition in (*grid.conditions, *grid.attacks)
    ]


def preview(
    photograph: File,
    out: File = Path("sheet.png"),
    study: StudyInstead = None,
    *,
    seed: Annotated[int, typer.Option(min=0)] = 0,
) -> tuple[int, int]:
    """Draw a photograph under every condition, labelled, on one contact sheet.

    Args:
        photograph: a photograph.
        out: the contact sheet, a PNG file.
        seed: of the noise.

    Returns the number of conditions that are drawn, and how many there are.
    """
    from ...probes.contact_sheet import draw_sheet, read_photograph
    from ..study.file import grid_of

    grid = grid_of(path_of(study))
    return draw_sheet(read_photograph(Path(photograph)), grid, seed, Path(out)), len(grid.conditions)
