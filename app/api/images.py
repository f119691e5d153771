"""Image sets: packed, checked, drawn; and what probes make of images."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.progress import Progress, silent
from ...core.protocol import BENCHMARKS, SIZE
from ...core.records import PUBLISHED_CROP, Crop
from ...probes.images.options import USUAL, WHOLE_SOURCE, Contents, How
from .files import RESULTS, File, existing, path_of, reading
from .results import open as open_results

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ...probes.benchmarks.check import Subset
    from ...probes.benchmarks.truth import Labels
    from ...probes.images.image_set import ImageSet
    from ..spectrum import Spectrum


def pack(
    source: File,
    out: File,
    *,
    crop: Crop = PUBLISHED_CROP,
    labels: File | None = None,
    attributes: File | None = None,
    contents: Contents = WHOLE_SOURCE,
    how: How = USUAL,
) -> ImageSet:
    """Decode the images of a folder tree or tar archive into the new image set `out`, sorted by path.

    Args:
        source: the folder or archive.
        out: the new folder of the set.
        crop: how photographs become pixels; by default the published study's.
        labels: a CSV file, columns path and class, or the word `folders`: those at the top are the classes. Else they
            come from folders named by WordNet ids, or by the names of the decision space.
        attributes: a CSV file, columns path, name and value, of sites, scanners or the like, which are measured apart.
        contents: what the set is called in results, what its images are, and which of the source's they are.
        how: broken files, streaming, threads, progress; none of it matters to what the set holds.

    Raises UsageError where `source` is missing or `out` exists, ImageSetError for whatever is wrong with the images or
    their labels. After an error there is no `out`.
    """
    from ...probes.images.pack import pack

    files = {"labels": path_of(labels), "attributes": path_of(attributes)}
    return pack(Path(source), Path(out), crop=crop, contents=contents, how=how, **files)


def add_attributes(image_set: File, file: File) -> dict[str, dict[str, int]]:
    """Add attributes to a packed set; its digest stays, and studies have them once they are run again.

    Args:
        image_set: the folder of the set.
        file: a CSV file, columns path, name and value. An attribute that the set has already is replaced.

    Returns the number of images by name and value of all attributes of the set. ImageSetError names a row that is of no
    image, repeats another, or is not whole.
    """
    from ...probes.images.attributes import add_attributes
    from ...probes.images.image_set import open_image_set

    images = open_image_set(Path(image_set))
    slices = add_attributes(images.folder, images.attributes, images.paths, Path(file))
    counts: dict[str, dict[str, int]] = {}
    for (name, value), rows in slices.items():
        counts.setdefault(name, {})[value] = len(rows)
    return counts


def add_images(image_set: File, source: File, *, labels: File | None = None, how: How = USUAL) -> ImageSet:
    """Add the images of a folder or tar archive that a set does not have by their paths; it is replaced when whole.

    Args:
        image_set: the folder of the set.
        source: the folder or archive; of a streamed set, the folder that it is decoded from.
        labels: as for `pack`, for all images of the source; classes with new names get the next numbers.
        how: broken files, threads, progress.

    Images that the set has stay as they are, and the next run takes their predictions from what is stored. Raises
    UsageError where nothing is new, and for labels that do not fit those of the set; ImageSetError for broken images.
    After an error the set is as it was.
    """
    from ...probes.images.change import add_images

    return add_images(Path(image_set), Path(source), path_of(labels), how)


def remove_images(image_set: File, names: Sequence[str]) -> ImageSet:
    """Remove images from a set by their paths; raises UnknownName for one that it does not have."""
    from ...probes.images.change import remove_images

    return remove_images(Path(image_set), names)


def pack_benchmark(
    benchmark: str,
    source: File,
    out: File,
    *,
    name: str | None = None,
    crop: Crop = PUBLISHED_CROP,
    labels: Labels | None = None,
    subset: Subset | None = None,
    how: How = USUAL,
) -> list[ImageSet]:
    """Check that a folder holds a benchmark, or the subset of it that is meant, and pack it.

    Args:
        benchmark: its name, as `list_benchmarks` has it.
        source: its folder, or an archive of it; of corruptions, the folder of their folders.
        out: the new folder of the set, or of the sets of corruptions, which an interrupted pack goes on with.
        name: the name of the set, by default that of `out`; corruption and severity are added.
        crop: how photographs become pixels; those of a benchmark that is not resized must have `crop.size`.
        labels: files with labels, for the benchmarks that have them, and which images are not independent.
        subset: how much of the benchmark is packed, and is enough; by default all of it.
        how: broken files, streaming, threads, progress; none of it matters to what the set holds.

    Raises UsageError for options that do not belong to the benchmark, ImageSetError for whatever is missing or surplus,
    and for broken images. After an error there is no set that is not whole.
    """
    from ...probes.benchmarks.check import WHOLE
    from ...probes.benchmarks.layouts import find_benchmark
    from ...probes.benchmarks.pack import pack_benchmark
    from ...probes.benchmarks.truth import IN_PATHS

    return pack_benchmark(
        find_benchmark(benchmark),
        Path(source),
        Path(out),
        name=name,
        crop=crop,
        labels=labels or IN_PATHS,
        subset=subset or WHOLE,
        how=how,
    )


def list_benchmarks() -> list[dict[str, Any]]:
    """A row for each benchmark that `pack_benchmark` knows: its sets, images, classes, labels, size and layout."""
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
    image_set: File, out: File, *, cutoff: float, seed: int = 0, name: str | None = None, how: How = USUAL
) -> ImageSet:
    """Make a set whose images have the low frequencies of one image and the high ones of an image of another class.

    Args:
        image_set: the folder of a packed set with labels.
        out: the new folder of the set.
        cutoff: in (0, 1); frequencies up to cutoff x size / 2 cycles per image are low.
        seed: what the pairs are drawn by.
        name: the name of the set, by default that of `out`.
        how: threads and progress.
    """
    from ...probes.benchmarks.frequency_conflict import pack_frequency_conflict
    from ...probes.images.image_set import open_image_set

    images = open_image_set(Path(image_set))
    return pack_frequency_conflict(images, Path(out), cutoff=cutoff, seed=seed, name=name, how=how)


def check_images(image_set: File, *, workers: int | None = None, progress: Progress = silent) -> ImageSet:
    """Read a set again and compare it with what was packed; ImageSetError names the first image that differs."""
    from ...probes.images.image_set import check_image_set

    return check_image_set(Path(image_set), workers=workers, progress=progress)


def draw_images(
    image_set: File, query: str, out: File, db: File = RESULTS, *, study: File | None = None
) -> tuple[int, int]:
    """Draw the images that a query finds as a wall; gives the number of tiles, and of rows that the query has.

    Args:
        image_set: the folder of a packed set.
        query: a SELECT with image_index or path; with probe and parameters images are shown perturbed, too.
        out: the picture, a PNG file.
        db: the results database that the query asks.
        study: a study file, for the probes of one's own that it names.
    """
    from ...probes.images.image_set import open_image_set
    from ..pictures.conditions import Conditions
    from ..pictures.sheet import grid_of
    from ..pictures.wall import draw_wall

    images = open_image_set(Path(image_set))
    conditions = Conditions(None if study is None else grid_of(Path(study)))
    with open_results(db) as results:
        rows = results.sql(query, timeout=60)
    with reading(db) as store:
        return draw_wall(store, rows, images, conditions, Path(out)), len(rows)


def spectrum(
    image_set: File,
    second: File | None = None,
    *,
    db: File | None = None,
    study: str = "*",
    out: File | None = None,
    progress: Progress = silent,
) -> Spectrum:
    """Measure the power of images by octave and direction, and the label information of each octave.

    Args:
        image_set: the folder of a packed set.
        second: another set, which it is compared with.
        db: a results database with octave shares of models on the images, to compare with that information.
        study: name or name@version; * is the newest version of each.
        out: a chart to write: .svg, .pdf or .png.
        progress: shows how far it is.

    Raises UsageError for sets of one cluster, of two sizes, or of images below 16 pixels.
    """
    from ...analysis.charts.curves import spectrum_chart
    from ...probes.images.image_set import open_image_set
    from ..report.figures import check_ending, write_chart
    from ..spectrum import directions_by_set, measure_spectra

    if out is not None:
        check_ending(Path(out))
    sets = [open_image_set(Path(folder)) for folder in (image_set, second) if folder is not None]
    result = measure_spectra(sets, None if db is None else existing(db), study, progress)
    if out is not None:
        write_chart(spectrum_chart(result.rings, directions_by_set(result)), Path(out))
    return result


def list_conditions(study: File | None = None, *, attacks: bool = False) -> list[dict[str, str]]:
    """A row for each condition of a study file, or of the published grid: its probe, parameters, and what it does.

    With `attacks`, those of the study's attacks alone, or of all attacks at the published budget.
    """
    from ...probes.grid import KNOWN, make_grid
    from ..pictures.sheet import grid_of

    if attacks and study is None:
        grid = make_grid({name: {} for name, family in KNOWN.items() if family.attack}, Path())
    else:
        grid = grid_of(path_of(study))
    return [
        {
            "probe": condition.probe,
            "parameters": condition.facts.setting,
            "what": grid.family(condition).summary,
        }
        for condition in (*(() if attacks else grid.conditions), *grid.attacks)
    ]


def unlisted_probes(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """The names of the built-in probes that rows of `list_conditions` lack."""
    from ...probes.grid import KNOWN

    listed = {row["probe"] for row in rows}
    return [name for name in KNOWN if name not in listed]


def preview(photograph: File, out: File, study: File | None = None, *, seed: int = 0) -> tuple[int, int]:
    """Draw a photograph under every condition on a contact sheet; gives how many are drawn, and how many there are."""
    from ..pictures.sheet import draw_sheet, grid_of, read_photograph

    grid = grid_of(path_of(study))
    return draw_sheet(read_photograph(Path(photograph)), grid, seed, Path(out)), len(grid.conditions)
