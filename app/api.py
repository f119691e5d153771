"""What Python code calls, as the package's own names: each command's job, without its printing.

What is wrong is raised as an error of `errors.py`. Paths are text or `Path`. Where a job takes long, `progress` shows
how far it is: `with progress(what, total, unit) as advance`, then `advance(amount)` as it goes on; by default nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING

from ..advance import Progress, silent
from ..errors import UsageError
from ..probes.images.options import USUAL, WHOLE_SOURCE, Contents, How
from ..protocol import SIZE
from ..records import PUBLISHED_CROP, Crop

if TYPE_CHECKING:
    import polars as pl
    from torch import nn

    from ..analysis.comparison.cells import Run
    from ..analysis.comparison.runs import Comparison
    from ..export.normalization import Channels
    from ..probes.images.image_set import ImageSet
    from ..records import Model
    from .report.build import Written
    from .study.file import Study
    from .study.plan import Plan
    from .study.record import Summary
    from .study.resolve import Work

File = str | PathLike[str]
RESULTS = Path("results.duckdb")


def export(
    source: File | nn.Module,
    name: str | None = None,
    *,
    architecture: str | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    image_size: int | None = None,
    out: File | None = None,
) -> Model:
    """Make the fp32 ONNX model of a network; it must compute what the network does on photographs, or is refused.

    Args:
        source: a network in memory, which stays as it is; a file of weights of an `architecture`; a finished ONNX file;
            one of the 48 checkpoints by name; or a pretrained model of timm, `timm:NAME`.
        name: what studies call the model; not for checkpoints and models of timm, which have names.
        architecture: a torchvision or timm model, or `module:callable('text', number=1)`.
        mean: of each RGB channel of images in [0, 1], which the network expects to be subtracted; (0, 0, 0) where it
            does that itself. Checkpoints and models of timm know theirs.
        std: by which it expects them to be divided; (1, 1, 1) where it does that itself.
        image_size: width and height of the images, pixels; 224 by default, or what an ONNX file says.
        out: the folder of the models; by default $BANDLENS_HOME/models.

    Raises CheckpointError, ExportError, UnknownName, UsageError.
    """
    from ..export import pipeline

    folder, size = None if out is None else Path(out), image_size or SIZE
    if isinstance(source, str) and architecture is None and not Path(source).is_file():
        if (name, mean, std) != (None, None, None):
            raise UsageError(f"{source} is no file, and a checkpoint has its own name, mean and std; leave them out")
        if not source.startswith("timm:"):
            return pipeline.export_checkpoint(source, folder, image_size=size)[0]
        if image_size is not None:
            raise UsageError(f"{source} takes images of its own size; leave out image_size")
        return pipeline.export_pretrained(source.removeprefix("timm:"), folder)[0]
    if name is None or mean is None or std is None:
        raise UsageError("give the model a name, and the mean and std of each channel that the network is used to")
    channels = _channels("mean", mean), _channels("std", std)
    if not isinstance(source, (str, PathLike)):
        return pipeline.export_network(source, name, channels, folder, image_size=size)[0]
    file = Path(source)
    if architecture is None:
        return pipeline.import_onnx(file, name, channels, folder, image_size=image_size)[0]
    return pipeline.export_user_checkpoint(file, name, architecture, channels, folder, image_size=size)[0]


def pack(
    source: File,
    out: File,
    *,
    crop: Crop = PUBLISHED_CROP,
    labels: File | None = None,
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
        contents: what the set is called in results, what its images are, and which of the source's they are.
        how: broken files, streaming, threads, progress; none of it matters to what the set holds.

    Raises UsageError where `source` is missing or `out` exists, ImageSetError for whatever is wrong with the images or
    their labels. After an error there is no `out`.
    """
    from ..probes.images.pack import pack

    file = None if labels is None else Path(labels)
    return pack(Path(source), Path(out), crop=crop, labels=file, contents=contents, how=how)


def plan(study: Study | File, db: File = RESULTS, *, engine: str | None = None) -> Plan:
    """What a run of the study would do, and how long it would take here; a file is read as a study."""
    from .study.plan import plan_study

    return plan_study(_work(study, engine), Path(db))


def run(
    study: Study | File,
    db: File = RESULTS,
    *,
    engine: str | None = None,
    require_gate: bool = False,
    snapshot: File | None = None,
    progress: Progress = silent,
) -> Summary:
    """Run what the database lacks of a study, given as such or as a file. Interrupted, it goes on where it stopped.

    Args:
        study: what to run.
        db: the results database; made if there is none.
        engine: instead of the study's.
        require_gate: raise, rather than warn, where the study's precision has not passed its gate.
        snapshot: a copy for readers, renewed now and then while this runs.
        progress: shows how far it is.

    Raises BandlensError where cells failed, after all others were stored, and whatever is wrong with the study.
    """
    from .study.run import run_study

    work, copy = _work(study, engine), None if snapshot is None else Path(snapshot)
    return run_study(work, Path(db), require_gate=require_gate, snapshot=copy, progress=progress).raise_failures()


def analyze(
    db: File = RESULTS,
    study: str = "*",
    *,
    resamples: int = 1000,
    rgb_reference: bool = False,
    conditions: bool = False,
    progress: Progress = silent,
) -> pl.DataFrame:
    """Compute the biases and group means of a study, and keep them in the view `metric`, whose rows these are.

    The view `condition_metric` gets the metrics of every condition, and the table `error_consistency` which images
    every two models, and people, have right and wrong together.

    Args:
        db: the results database.
        study: name or name@version; * is the newest version of each.
        resamples: of the bootstrap over images, at least 100.
        rgb_reference: normalize critical-band thresholds by the clean accuracy in colour.
        conditions: return the metrics of every condition instead.
        progress: shows how far it is.
    """
    from ..analysis.database.open import open_store
    from ..analysis.measures.base import Options
    from ..analysis.measures.compute import compute_measures, condition_metrics_of, metrics_of
    from ..analysis.measures.error_consistency import judged_images, write_consistencies
    from ..analysis.measures.outcomes import subjects

    if not Path(db).exists():
        raise UsageError(f"no results database at {db}; `bandlens run STUDY.toml --db {db}` makes one")
    with open_store(Path(db)) as store:
        count = len(subjects(store, study))
        with progress("analyzing", count, "checkpoints and image sets") as advance:
            values = compute_measures(store, study, Options(resamples, rgb_reference), advance)
        judged = judged_images(store, study)
        with progress("comparing errors", len(judged), "image sets") as advance:
            write_consistencies(store, judged, resamples, advance)
    return condition_metrics_of(values) if conditions else metrics_of(values)


def compare(
    a: str,
    b: str | None = None,
    db: File = RESULTS,
    *,
    study: str | None = None,
    checkpoints: tuple[str, str] | None = None,
    image_sets: tuple[str, str] | None = None,
    precisions: tuple[str, str] | None = None,
    progress: Progress = silent,
) -> Comparison:
    """Compare two runs image by image, or two checkpoints, image sets or precisions; differences are B less A.

    Args:
        a: a study, as name or name@version, or a results database.
        b: what to compare it with; by default itself, for two checkpoints, image sets or precisions of it.
        db: the results database of studies.
        study: which one of a database that holds several.
        checkpoints: the one of A, and the one of B.
        image_sets: likewise, by name.
        precisions: likewise, such as fp32 and int8; each is that of the newest version that was run in it.
        progress: shows how far it is.

    Raises UsageError where there is nothing to compare.
    """
    from ..analysis.comparison.cells import two_of
    from ..analysis.comparison.runs import compare_runs

    given = {"checkpoint": checkpoints, "image_set": image_sets, "precision": precisions}
    pairs = {name: pair for name, pair in given.items() if pair is not None}
    if len(pairs) > 1:
        raise UsageError("compare two checkpoints, two image sets or two precisions; not several at once")
    if b is None and not pairs:
        raise UsageError(
            f"{a} alone: say with which study to compare it, or which two of its checkpoints, image sets or precisions"
        )
    with ExitStack() as stack:
        first, second = (
            _opened(stack, one, Path(db), study, precision)
            for one, precision in zip((a, a if b is None else b), precisions or (None, None), strict=True)
        )
        for column in pairs.keys() - {"precision"}:
            first, second = two_of(first, second, column, *pairs[column])
        with progress("comparing", None, "cells") as advance:
            return compare_runs(first, second, advance)


def report(
    db: File = RESULTS,
    out: File = Path("report.html"),
    study: str | None = None,
    *,
    against: str | None = None,
    figures: File | None = None,
    photograph: File | None = None,
    progress: Progress = silent,
) -> Written:
    """Write one HTML file to look at and send; see `write_report`, whose arguments these are."""
    from .report.build import write_report

    folder, picture = (None if file is None else Path(file) for file in (figures, photograph))
    with progress("writing", None, "charts") as advance:
        return write_report(Path(db), Path(out), study, against, folder, picture, advance)


def _work(study: Study | File, engine: str | None) -> Work:
    from .study.file import Study
    from .study.resolve import resolve

    asked = study if isinstance(study, Study) else Study.read(study)
    return resolve(replace(asked, engine=engine or asked.engine))


def _opened(stack: ExitStack, name: str, db: Path, study: str | None, precision: str | None) -> Run:
    from ..analysis.comparison.cells import Run
    from ..analysis.database.open import names_database, open_store
    from ..analysis.database.studies import study_label, version_in

    is_database = names_database(name)
    store = stack.enter_context(open_store(Path(name) if is_database else db, read_only=True))
    wanted = study if is_database else name
    if precision is None:
        return Run(store, study_label(store, wanted))
    return Run(store, version_in(store, wanted, precision), value=precision)


def _channels(what: str, numbers: Sequence[float]) -> Channels:
    given = tuple(map(float, numbers))
    if len(given) != 3 or not all(map(math.isfinite, given)) or (what == "std" and min(given) <= 0):
        raise UsageError(f"{what} must be three numbers, one a channel, and std above 0; not {numbers}")
    red, green, blue = given
    return red, green, blue
